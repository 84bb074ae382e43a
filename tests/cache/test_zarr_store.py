"""The Zarr store: what goes in comes out, and a missing, stale or damaged row is never returned as data."""

import json
import multiprocessing
import os
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import zarr

from cache.errors import DamagedError, NotDoneError, StaleCacheError, StorageError
from cache.stores import zarr_store
from cache.stores.open_product import open_product
from cache.stores.product_folder import ProductDir
from cache.stores.zarr_store import ArraySpec, ZarrStore
from cache.upkeep.verify import TEMPORARY
from tests.helpers.small_plan import INPUT, part

FORK = multiprocessing.get_context("fork")
SPECS = [
    ArraySpec("codes", INPUT, "u2", "row"),
    ArraySpec("logits", (2, 7), "f4", "unit"),
    ArraySpec("box", (4,), "i4", "unit"),
    ArraySpec("scale", (), "f4", "unit"),
]


def _values(rows):
    """Values that tell every row, place and axis apart."""
    rows = np.array(rows)
    return {
        "codes": (1000 * rows[:, None, None] + np.arange(60).reshape(INPUT)).astype(np.uint16),
        "logits": (rows[:, None, None] + np.arange(14).reshape(2, 7) / 16).astype(np.float32),
        "box": (rows[:, None] * 10 + np.arange(4)).astype(np.int32),
        "scale": (rows / 8).astype(np.float32),
    }


def _store(root, plan=None, specs=SPECS):
    return ZarrStore.create(open_product(root, "maps", plan or part(), {"objective": "entropy"}), specs)


def _do(store, unit, **extra):
    with store.product.lock(unit) as mine:
        return mine and store.write_unit(unit, _values(store.part.unit_rows(unit)), **extra)


def _tree(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.parent.name != "locks"}


def _reader(store):
    """The same store as another process would open it."""
    return ZarrStore.open(ProductDir(store.product.path, store.part, _run(store)))


def _run(store):
    return json.loads((store.product.path / "run.json").read_bytes())


def test_what_goes_in_comes_out(tmp_path):
    store = _store(tmp_path)
    for unit in (2, 0, 1):  # the last is the short one
        assert _do(store, unit)
    reader, wanted = _reader(store), _values(range(10))
    for name in wanted:
        whole = reader.read_all(name)
        assert whole.dtype == wanted[name].dtype
        np.testing.assert_array_equal(whole, wanted[name])
        np.testing.assert_array_equal(reader.read(name, 9), wanted[name][9])
        np.testing.assert_array_equal(reader.read_rows(name, [9, 3, 3, 0]), wanted[name][[9, 3, 3, 0]])
        assert reader.read_rows(name, []).shape == (0, *wanted[name].shape[1:])
    for row in (-1, 10):
        with pytest.raises(IndexError, match="rows 0 to 9"):
            reader.read("codes", row)
    with pytest.raises(DamagedError, match="no array 'code', it has: box, codes"):
        reader.read("code", 0)


def test_one_file_per_unit_and_array_with_checksums(tmp_path):
    store = _store(tmp_path)
    _do(store, 1)
    names = [file["name"] for file in store.product.record(1)["files"]]
    shards = [f"arrays.zarr/{name}" for name in ("box/c.1.0", "codes/c.1.0.0", "logits/c.1.0.0", "scale/c.1")]
    metadata = [f"arrays.zarr/{name}zarr.json" for name in ("box/", "codes/", "logits/", "scale/", "")]
    assert names == shards + metadata
    codes = json.loads((store.product.path / "arrays.zarr/codes/zarr.json").read_bytes())
    assert codes["chunk_grid"]["configuration"]["chunk_shape"] == [4, 6, 10]
    (shard,) = codes["codecs"]
    assert shard["configuration"]["chunk_shape"] == [1, 6, 10]
    assert [codec["name"] for codec in shard["configuration"]["codecs"]] == ["bytes", "zstd", "crc32c"]
    assert [codec["name"] for codec in shard["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
    logits = json.loads((store.product.path / "arrays.zarr/logits/zarr.json").read_bytes())
    assert [codec["name"] for codec in logits["codecs"]] == ["bytes", "zstd", "crc32c"]
    # a stranger needs neither us nor the records
    assert zarr.open_group(store.product.path / "arrays.zarr", mode="r")["scale"][5] == 5 / 8


@pytest.mark.parametrize("plan", [part(), part(num_videos=1, rows_per_video=1)])
def test_files_are_those_that_zarr_writes_itself(tmp_path, plan):
    """Chunks are encoded in memory: to the byte what Zarr puts on the disk, also of a short last unit."""
    ours, zarrs = _store(tmp_path / "ours", plan), _store(tmp_path / "zarrs", plan)
    folder = zarrs.product.path / "arrays.zarr"
    for unit in range(plan.num_units):
        rows = plan.unit_rows(unit)
        values = {name: value * (unit != 1) for name, value in _values(rows).items()}  # zeros are written, too
        ours.write_unit(unit, values)
        for name, value in values.items():
            array = zarr.open_array(folder / name, mode="r+").with_config({"write_empty_chunks": True})
            array[rows.start : rows.stop] = value
    assert _tree(ours.product.path / "arrays.zarr") == _tree(folder)
    assert len(list(folder.glob("*/c.*"))) == 4 * plan.num_units


def test_files_and_new_names_are_durable_before_the_record_and_nothing_else(tmp_path, monkeypatch):
    """Every fsync protects bytes, or a name, that the record relies on; a folder without a new name costs none."""
    store, synced, fsync, link = _store(tmp_path), [], os.fsync, os.link
    _do(store, 0)

    def watched(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{store.product.path}/"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "link", lambda *names: synced.append("PUBLISHED") or link(*names))
    _do(store, 1)
    names = [f"arrays.zarr/{name}" for name in ("box/c.1.0", "codes/c.1.0.0", "logits/c.1.0.0", "scale/c.1")]
    assert synced[:-3] == [one for name in names for one in (name, os.path.dirname(name))]
    assert re.fullmatch(r"done/\.000001\.json\.[0-9a-f]{32}\.tmp", synced[-3])
    assert synced[-2:] == ["PUBLISHED", "done"]


def test_a_unit_is_read_by_row_from_its_own_file(tmp_path):
    store = _store(tmp_path)
    _do(store, 1, skipped=[{"video_id": "00003", "error": "VideoMissing", "detail": ""}])
    found, wanted = _reader(store).read_unit(1, "codes"), _values(range(4, 8))["codes"]
    assert list(found) == [4, 5]  # video 3 has rows 6 and 7
    np.testing.assert_array_equal([found[4], found[5]], wanted[:2])
    with pytest.raises(NotDoneError, match="unit 2 of"):
        store.read_unit(2, "codes")
    (store.product.path / "arrays.zarr/scale/c.1").unlink()  # of another array: not looked at
    assert store.read_unit(1, "codes").keys() == found.keys()
    path = store.product.path / "arrays.zarr/codes/c.1.0.0"
    good = path.read_bytes()
    for bad in (good[:-1], bytes([good[0] ^ 1]) + good[1:], None):
        path.unlink()
        if bad is not None:
            path.write_bytes(bad)
        with pytest.raises(DamagedError, match=r"codes/c\.1\.0\.0"):
            store.read_unit(1, "codes")
        path.touch()


def test_zeros_and_nans_are_written_like_anything_else(tmp_path):
    specs = [ArraySpec("codes", INPUT, "u2", "row"), ArraySpec("share", (), "f4", "unit")]
    store = _store(tmp_path, specs=specs)
    store.write_unit(0, {"codes": np.zeros((4, *INPUT), np.uint16), "share": np.full(4, np.nan, np.float32)})
    assert not _reader(store).read("codes", 3).any() and np.isnan(_reader(store).read("share", 3))


def test_rows_without_a_record_are_refused(tmp_path):
    store = _store(tmp_path)
    _do(store, 0)
    _do(store, 1, skipped=[{"video_id": "00003", "error": "VideoMissing", "detail": ""}])
    _do(store, 2)
    (store.product.path / "done/000002.json").unlink()  # the data is there, without its record
    reader = _reader(store)
    reader.read("scale", 5)
    for rows, message in [([9], "unit 2 of maps"), ([0, 9], "unit 2 of maps"), ([6], "00003 was skipped")]:
        with pytest.raises(NotDoneError, match=message):
            reader.read_rows("scale", rows)
    with pytest.raises(NotDoneError):
        reader.read_all("scale")


def test_a_reader_sees_units_that_are_done_later(tmp_path):
    product = open_product(tmp_path, "maps", part(), {"objective": "entropy"})
    early = ZarrStore.open(product)
    with pytest.raises(NotDoneError):
        early.read("scale", 8)
    _do(_store(tmp_path), 2)
    assert early.read("scale", 8) == 1.0


@pytest.mark.parametrize("harm", ["delete", "empty", "halve"])
@pytest.mark.parametrize("name", ["codes/c.1.0.0", "scale/c.1"])
def test_lost_files_never_read_as_fill_values(tmp_path, name, harm):
    store = _store(tmp_path)
    for unit in range(3):
        _do(store, unit)
    path = store.product.path / "arrays.zarr" / name
    data = path.read_bytes()
    path.unlink() if harm == "delete" else path.write_bytes(b"" if harm == "empty" else data[: len(data) // 2])
    reader = _reader(store)
    with pytest.raises(DamagedError, match=name):
        reader.read("codes", 4)
    assert reader.read("scale", 8) == 1.0


@pytest.mark.parametrize("name", ["codes", "logits"])
def test_a_flipped_bit_never_reads_as_data(tmp_path, name):
    store = _store(tmp_path)
    for unit in range(3):
        _do(store, unit)
    path = store.product.path / "arrays.zarr" / name / "c.1.0.0"
    good, wanted, found = path.read_bytes(), _values(range(4, 8))[name], 0
    for place in np.random.default_rng(0).choice(8 * len(good), 40, replace=False).tolist():
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        try:
            np.testing.assert_array_equal(_reader(store).read_rows(name, range(4, 8)), wanted)
        except DamagedError:
            found += 1
        with pytest.raises(DamagedError):
            store.product.verify(1)
    assert found >= 38  # a bit may be in a place nobody reads, then the data is right


def test_deleted_metadata_and_strange_metadata_are_refused(tmp_path):
    store = _store(tmp_path)
    _do(store, 0)
    path = store.product.path / "arrays.zarr/scale/zarr.json"
    good = json.loads(path.read_bytes())
    pickled = {"name": "numcodecs.pickle", "configuration": {}}
    for change, message in [
        ({"codecs": [*good["codecs"], pickled]}, r"numcodecs\.pickle"),
        ({"shape": [1 << 40]}, "1099511627776 rows, the plan has 10"),
        ({"zarr_format": 2}, "Zarr v3"),
        ({"codecs": 3}, "zarr.json"),
    ]:
        path.write_text(json.dumps(good | change))
        with pytest.raises(DamagedError, match=message):
            _reader(store)
    path.unlink()
    with pytest.raises(DamagedError, match=r"scale/zarr\.json is missing"):
        _reader(store).read("scale", 0)


def test_another_layout_is_stale(tmp_path):
    _store(tmp_path)
    _store(tmp_path)
    for spec in (ArraySpec("codes", (10, 6), "u2", "row"), ArraySpec("scale", (), "f8", "unit")):
        with pytest.raises(StaleCacheError, match=spec.name):
            _store(tmp_path, specs=[spec])
    with pytest.raises(ValueError, match="'video', allowed: row, unit"):
        ArraySpec("codes", INPUT, "u2", "video")


def test_wrong_values_are_refused_before_anything_is_written(tmp_path):
    store = _store(tmp_path)
    good = _values(range(4))
    for change, message in [
        (
            {"codes": good["codes"].swapaxes(1, 2)},
            r"codes of unit 0 must be uint16 \(4, 6, 10\), got uint16 \(4, 10, 6\)",
        ),
        ({"scale": good["scale"].astype(np.float64)}, "must be float32"),
        ({"scale": good["scale"][:3]}, r"got float32 \(3,\)"),
        ({"extra": good["scale"]}, "needs the arrays"),
    ]:
        with pytest.raises(ValueError, match=message):
            store.write_unit(0, good | change)
    assert store.product.todo() == [0, 1, 2] and not list(store.product.path.glob("arrays.zarr/*/c.*"))


@pytest.mark.parametrize("unit", [1, 2])
def test_killed_between_data_and_record_and_run_again(tmp_path, unit):
    def killed():
        store = _store(tmp_path / "killed")
        store.product.commit = lambda *_, **__: os._exit(9)
        # other bytes than the next run writes: what was left must not be merged with
        store.write_unit(unit, {name: value + 1 for name, value in _values(store.part.unit_rows(unit)).items()})

    child = FORK.Process(target=killed)
    child.start()
    child.join(300)
    assert child.exitcode == 9
    store = _store(tmp_path / "killed")
    shards = store.product.path / "arrays.zarr/scale"
    # what a kill leaves beside a file, before Zarr encoded in memory and since then
    left = [shards / f"c.{unit}.0123.partial", shards / f".c.{unit}.{'0' * 32}.tmp"]
    for path in left:
        path.touch()
    with pytest.raises(NotDoneError):
        store.read("scale", store.part.unit_rows(unit)[0])
    for one in range(3):
        _do(store, one)
        _do(_store(tmp_path / "whole"), one)
    for path in left:
        assert TEMPORARY.fullmatch(path.relative_to(store.product.path).as_posix())  # so gc deletes it
        path.unlink()
    assert _tree(tmp_path / "killed") == _tree(tmp_path / "whole")


def test_two_processes_share_a_plan(tmp_path):
    plan = part(num_videos=11, videos_per_unit=1)

    def work(seconds):
        start.wait()
        store = _store(tmp_path / "two", plan)
        for unit in store.product.todo():
            _do(store, unit)

    start = FORK.Barrier(2)
    children = [FORK.Process(target=work, args=(number,)) for number in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    alone = _store(tmp_path / "one", plan)
    for unit in range(11):
        _do(alone, unit)
    assert _tree(tmp_path / "two") == _tree(tmp_path / "one")
    np.testing.assert_array_equal(_store(tmp_path / "two", plan).read_all("codes"), _values(range(22))["codes"])


def test_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    store = _store(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left"):
            _do(store, 0)
    assert store.product.todo() == [0, 1, 2]
    assert _do(store, 0)


def test_pickled_and_forked_readers(tmp_path):
    store = _store(tmp_path)
    for unit in range(3):
        _do(store, unit)

    def child():
        os._exit(7 if store.read("scale", 9) == 9 / 8 else 1)

    assert pickle.loads(pickle.dumps(store)).read("scale", 9) == 9 / 8
    process = FORK.Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode == 7


def test_a_part_without_rows(tmp_path):
    store = _store(tmp_path, part(num_videos=0), [ArraySpec("scale", (), "f4", "unit")])
    assert store.read_all("scale").shape == (0,)


def test_old_zarr_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_store.zarr, "__version__", "3.1.2")
    with pytest.raises(RuntimeError, match=r"3\.1\.2"):
        _store(tmp_path)
    monkeypatch.setattr(zarr_store.zarr, "__version__", "3.10.0rc1")
    _store(tmp_path)


NAMED = [ArraySpec("codes", INPUT, "u2", "row", ("y", "x")), ArraySpec("scale", (), "f4", "unit")]


def test_axes_have_names_as_xarray_asks_for_them(tmp_path):
    """One length a name in the whole group, or xarray refuses it."""
    arrays = _store(tmp_path, specs=NAMED).arrays
    assert {name: array.metadata.dimension_names for name, array in arrays.items()} == {
        "codes": ("row", "y", "x"),
        "scale": ("row",),
    }
    assert arrays["codes"].shape == (10, *INPUT) and arrays["scale"].shape == (10,)


def _begun_before(root, specs):
    """A store that older versions have begun: files of units in folders below c/."""
    for path in _store(root, specs=specs).product.path.glob("arrays.zarr/*/zarr.json"):
        path.write_bytes(path.read_bytes().replace(b'"separator": "."', b'"separator": "/"'))
    return _store(root, specs=specs)


def test_a_store_of_older_versions_goes_on_as_it_was(tmp_path):
    """Both layouts give the same rows, and neither is mixed into the other."""
    before, now = _begun_before(tmp_path / "before", SPECS), _store(tmp_path / "now")
    for store in (before, now):
        for unit in (0, 2):
            _do(store, unit)
    names = [file["name"].removeprefix("arrays.zarr/") for file in before.product.record(2)["files"]][:4]
    assert names == ["box/c/2/0", "codes/c/2/0/0", "logits/c/2/0/0", "scale/c/2"]
    assert all((before.product.path / "arrays.zarr" / name).is_file() for name in names)
    again = _store(tmp_path / "before")  # opened by this version
    _do(again, 1)
    _do(now, 1)
    for name in ("codes", "logits", "box", "scale"):
        np.testing.assert_array_equal(_reader(again).read_all(name), _values(range(10))[name])
        for unit in range(3):
            found, wanted = again.read_unit(unit, name), now.read_unit(unit, name)
            np.testing.assert_array_equal(list(found.values()), list(wanted.values()))
    assert not list((again.product.path / "arrays.zarr").glob("*/c.*"))
    assert not list((now.product.path / "arrays.zarr").glob("*/c"))


@pytest.mark.parametrize("begin", [_store, _begun_before])
@pytest.mark.parametrize("named", [True, False])
def test_lost_metadata_is_made_as_its_record_says(tmp_path, named, begin):
    """Stores from before the axes had names, or units one file each, keep their bytes."""
    specs = NAMED if named else [replace(spec, row_dimensions=("none",) * 9) for spec in NAMED]
    store = begin(tmp_path, specs=specs)
    with store.product.lock(0):
        values = _values(store.part.unit_rows(0))
        store.write_unit(0, {name: values[name] for name in ("codes", "scale")})
    before = _tree(tmp_path)
    for name in ("zarr.json", "codes/zarr.json", "scale/zarr.json"):
        (store.product.path / "arrays.zarr" / name).unlink()
    _store(tmp_path, specs=NAMED)
    assert _tree(tmp_path) == before
    codes = before[(store.product.path / "arrays.zarr/codes/zarr.json").relative_to(tmp_path)]
    assert (b"dimension_names" in codes) is named
