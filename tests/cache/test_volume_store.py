"""The HDF5 store: volumes come back, files are equal from run to run, and damage or foreign content is refused."""

import multiprocessing
import os
import pickle

import h5py
import numpy as np
import pytest

from cache.errors import DamagedError, NotDoneError
from cache.stores import volume_store
from cache.stores.frame_codec import encode_volume
from cache.stores.open_product import open_product
from cache.stores.product_folder import ProductDir
from cache.stores.volume_store import VolumeStore, build_unit
from tests.helpers.small_plan import INPUT, NUM_FRAMES, part

FORK = multiprocessing.get_context("fork")


def _store(root, codec="png", plan=None):
    settings = {"codec": codec, "quality": 90 if codec == "jpeg" else 0}
    return VolumeStore(open_product(root, "crops", plan or part(), settings))


def _volume(row):
    """Noise, so that PNG must be lossless and every row, frame, place and channel differs."""
    return np.random.default_rng(row).integers(0, 256, (NUM_FRAMES, *INPUT, 3), np.uint8)


def _do(store, unit, **extra):
    skipped = {skip["video_id"] for skip in extra.get("skipped", ())}
    with store.product.lock(unit) as mine:
        rows = store.part.unit_rows(unit)
        encoded = [None if store.part.video_ids[row] in skipped else store.encode(_volume(row)) for row in rows]
        return mine and store.write_unit(unit, encoded, **extra)


def _filled(root, *arguments):
    store = _store(root, *arguments)
    for unit in store.product.todo():
        _do(store, unit)
    return store


def _again(store):
    """The same store as another process would open it."""
    run = {"product": "crops", "settings": store.product.settings}
    return VolumeStore(ProductDir(store.product.path, store.part, run))


def _file(store, unit):
    (path,) = store.product.path.glob(f"volumes/{unit:06d}-*.h5")
    return path


def _tree(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.parent.name != "locks"}


def test_png_gives_back_every_pixel(tmp_path):
    store = _again(_filled(tmp_path))
    for row in (9, 0, 4, 3):
        volume = store.volume(row)
        assert volume.dtype == np.uint8
        np.testing.assert_array_equal(volume, _volume(row))
    for row in (-1, 10):
        with pytest.raises(IndexError, match="rows 0 to 9"):
            store.volume(row)


def test_jpeg_keeps_axes_channels_and_order_of_frames(tmp_path):
    store = _store(tmp_path, "jpeg")
    volume = np.zeros((NUM_FRAMES, *INPUT, 3), np.uint8)
    volume[0, :, :, 0] = 250  # red
    volume[1, :, 5:, 2] = 250  # blue, right half
    volume[2, 3:, :, :] = 250  # white, lower half
    store.write_unit(2, [store.encode(volume), store.encode(volume[::-1])])
    for row, wanted in [(8, volume), (9, volume[::-1])]:
        error = np.abs(store.volume(row).astype(int) - wanted)
        assert error.mean() < 25  # 4:2:0 smears colour over the edges, a swap is 80 and more
    assert encode_volume(volume, "jpeg", 90)[0].startswith(b"\xff\xd8\xff")
    assert len(encode_volume(_volume(0), "jpeg", 30)[0]) < len(encode_volume(_volume(0), "jpeg", 95)[0])


def test_the_file_as_a_stranger_reads_it(tmp_path):
    store = _filled(tmp_path)
    (entry,) = store.product.record(1)["files"]
    path = _file(store, 1)
    assert entry["name"] == f"volumes/{path.name}" and path.stem == f"000001-{entry['sha256'][:16]}"
    with h5py.File(path, "r") as file:
        assert sorted(file) == ["crc32", "data", "offsets"]
        assert {name: np.asarray(value).tolist() for name, value in file.attrs.items()} == {
            "T": 3,
            "size": [6, 10],
            "codec": b"png",
            "quality": 0,
            "first_row": 4,
        }
        assert file["data"].fletcher32 and file["offsets"].shape == (13,) and file["crc32"].shape == (4,)
        offsets = file["offsets"][:]
        frame = file["data"][offsets[2 * 3 + 1] : offsets[2 * 3 + 2]].tobytes()
    assert frame == encode_volume(_volume(6), "png")[1]


def test_equal_input_gives_equal_bytes():
    rows = [encode_volume(_volume(row), "png") for row in range(2)]
    attrs = {"T": 3, "size": [6, 10], "codec": "png", "quality": 0, "first_row": 0}
    assert build_unit(rows, attrs) == build_unit(rows, attrs)
    assert build_unit(rows, attrs) != build_unit(rows[::-1], attrs)


def test_a_file_does_not_show_how_long_its_datasets_lived(monkeypatch):
    """A sampling profiler, such as that of Dask's workers, holds frames and with them datasets."""
    rows, attrs = [[b"a" * 999] * 3, [b"b" * 99] * 3], {"T": 3, "size": [2, 2], "codec": "png", "quality": 0}
    kept, real, plain = [], h5py.Group.create_dataset, build_unit(rows, attrs)
    monkeypatch.setattr(
        h5py.Group, "create_dataset", lambda *args, **named: kept.append(real(*args, **named)) or kept[-1]
    )
    assert build_unit(rows, attrs) == plain and len(kept) == 3


def test_rows_without_a_record_are_refused(tmp_path):
    store = _store(tmp_path)
    with pytest.raises(NotDoneError, match="unit 0 of crops"):
        store.volume(0)
    _do(store, 1, skipped=[{"video_id": "00003", "error": "VideoTruncated", "detail": ""}])
    np.testing.assert_array_equal(store.volume(5), _volume(5))
    with pytest.raises(NotDoneError, match="00003 was skipped, VideoTruncated"):
        store.volume(6)
    assert store.product.rows_done().tolist() == [False] * 4 + [True] * 2 + [False] * 4


def test_a_unit_in_which_everything_failed(tmp_path):
    store = _store(tmp_path)
    _do(store, 2, skipped=[{"video_id": "00004", "error": "VideoMissing", "detail": ""}])
    assert store.product.todo() == [0, 1] and not store.product.rows_done().any()
    store.product.verify(2)


def test_wrong_volumes_are_refused_before_anything_is_written(tmp_path):
    store, good = _store(tmp_path), _volume(0)
    with pytest.raises(ValueError, match=r"\(3, 6, 10, 3\), got \(3, 10, 6, 3\)"):
        store.encode(good.swapaxes(1, 2))
    with pytest.raises(ValueError, match="got float32"):
        store.encode(good.astype(np.float32))
    with pytest.raises(ValueError, match="'webp', allowed: jpeg, png"):
        encode_volume(good, "webp")
    frames = store.encode(good)
    for rows, message in [
        ([frames] * 3, "has 4 rows, got 3"),
        ([frames] * 3 + [None], "row 3"),
        ([frames[:2]] * 4, "3"),
    ]:
        with pytest.raises(ValueError, match=message):
            store.write_unit(0, rows)
    assert store.product.todo() == [0, 1, 2]


def test_a_flipped_bit_never_reads_as_data(tmp_path):
    store = _filled(tmp_path)
    path, found = _file(store, 1), 0
    good = path.read_bytes()
    for place in np.random.default_rng(0).choice(8 * len(good), 100, replace=False).tolist():
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        reader = _again(store)
        try:
            for row in range(4, 8):
                np.testing.assert_array_equal(reader.volume(row), _volume(row))
        except DamagedError as error:
            assert path.name in str(error)
            found += 1
        reader.close()
        with pytest.raises(DamagedError):
            store.product.verify(1)
    payload = sum(len(frame) for row in range(4, 8) for frame in encode_volume(_volume(row), "png"))
    assert found > 100 * payload / len(good) * 0.8


def test_crc32_finds_what_hdf5_does_not(tmp_path):
    """Bytes that were exchanged with a right checksum of HDF5 itself."""
    store = _filled(tmp_path)
    store.product.checked_record(2)
    with h5py.File(_file(store, 2), "r+") as file:
        file["data"][100] ^= 1
    with pytest.raises(DamagedError, match="row 8: CRC32 does not fit"):
        store.volume(8)


@pytest.mark.parametrize("harm", ["delete", "cut", "swap"])
def test_lost_cut_and_swapped_files_are_found(tmp_path, harm):
    store = _filled(tmp_path)
    path = _file(store, 1)
    if harm == "delete":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:  # noise is incompressible, so the neighbour may well have the same size
        path.write_bytes(_file(store, 0).read_bytes())
        store.product.checked_record = lambda unit: store.product.record(unit)  # as if it had
    with pytest.raises(DamagedError, match="first_row is 0" if harm == "swap" else "missing or not"):
        (store if harm == "swap" else _again(store)).volume(4)


def _external_storage(file, secret):
    del file["data"]
    file.create_dataset("data", (8,), "u1", external=[(str(secret), 0, 8)])


def _external_link(file, secret):
    del file["data"]
    file["data"] = h5py.ExternalLink(str(secret), "/data")


def _soft_link(file, _):
    file["real"] = file["data"]
    del file["data"]
    file["data"] = h5py.SoftLink("/real")


def _soft_link_only(file, _):
    del file["crc32"]
    file["crc32"] = h5py.SoftLink("/offsets")


def _virtual(file, secret):
    del file["data"]
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "data", (8,))
    file.create_virtual_dataset("data", layout)


def _huge(file, _):
    del file["data"]
    file.create_dataset("data", (1 << 40,), "u1", chunks=(1 << 16,))


def _group(file, _):
    del file["data"]
    file.create_group("data")


def _other_dtype(file, _):
    del file["crc32"]
    file["crc32"] = np.zeros(2, np.int64)


def _short(file, _):
    offsets = file["offsets"][:]
    del file["offsets"]
    file["offsets"] = offsets[:-1]


def _backwards(file, _):
    file["offsets"][3] = file["offsets"][5]
    file["offsets"][4] = 0


def _other_codec(file, _):
    file.attrs["codec"] = np.bytes_("jpeg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external_storage, "data keeps its data elsewhere"),
        (_external_link, "data is a link to elsewhere"),
        (_soft_link, "datasets .*'real'"),
        (_soft_link_only, "crc32 is a link to elsewhere"),
        (_virtual, "data keeps its data elsewhere"),
        (_huge, "more than the file holds"),
        (_group, "data keeps its data elsewhere"),
        (_other_dtype, "crc32 is int64"),
        (_short, "offsets or crc32 do not fit"),
        (_backwards, "offsets or crc32 do not fit"),
        (_other_codec, "attribute codec is 'jpeg', expected 'png'"),
    ],
)
def test_foreign_content_is_refused_before_it_is_read(tmp_path, change, message):
    store = _filled(tmp_path)
    path, secret = _file(store, 2), tmp_path / "secret.h5"
    secret.write_bytes(path.read_bytes())
    store.product.checked_record(2)  # its size was right once
    with h5py.File(path, "r+") as file:
        change(file, secret)
    with pytest.raises(DamagedError, match=message):
        store.volume(8)


def test_an_image_of_another_size_is_refused(tmp_path):
    """Checksums do not help against a file that was made wrong."""
    store = _store(tmp_path)
    wrong = encode_volume(_volume(0).swapaxes(1, 2), "png")
    store.write_unit(2, [wrong, [b"no image"] * 3])
    with pytest.raises(DamagedError, match="row 8, frame 0: 10 x 6 pixels, expected 6 x 10"):
        store.volume(8)
    with pytest.raises(DamagedError, match="row 9"):
        store.volume(9)


def test_killed_between_data_and_record_and_run_again(tmp_path):
    def killed():
        store = _store(tmp_path / "killed")
        _do(store, 0)
        store.product.commit = lambda *_, **__: os._exit(9)
        _do(store, 1)

    child = FORK.Process(target=killed)
    child.start()
    child.join(300)
    assert child.exitcode == 9
    store = _store(tmp_path / "killed")
    assert _file(store, 1).exists() and store.product.todo() == [1, 2]
    with pytest.raises(NotDoneError):
        store.volume(4)
    _filled(tmp_path / "killed")
    _filled(tmp_path / "whole")
    assert _tree(tmp_path / "killed") == _tree(tmp_path / "whole")


def test_two_processes_share_a_plan(tmp_path):
    plan = part(num_videos=9, videos_per_unit=1)

    def work():
        start.wait()
        _filled(tmp_path / "two", "jpeg", plan)

    start = FORK.Barrier(2)
    children = [FORK.Process(target=work) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    _filled(tmp_path / "one", "jpeg", plan)
    assert _tree(tmp_path / "two") == _tree(tmp_path / "one")


def test_pickled_and_forked_readers_open_their_own_files(tmp_path):
    store = _filled(tmp_path)
    store.volume(9)
    copy = pickle.loads(pickle.dumps(store))
    assert store._files and not copy._files
    np.testing.assert_array_equal(copy.volume(9), _volume(9))
    inherited = store._files[2][0]

    def child():
        right = (store.volume(9) == _volume(9)).all() and store._files[2][0] is not inherited
        os._exit(7 if right else 1)

    process = FORK.Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode == 7
    np.testing.assert_array_equal(store.volume(9), _volume(9))
    assert store._files[2][0] is inherited


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(volume_store, "OPEN_FILES", 2)
    store = _filled(tmp_path)
    for row in (0, 4, 0, 8):
        np.testing.assert_array_equal(store.volume(row), _volume(row))
    assert list(store._files) == [0, 2]  # the one used longest ago went
    store.close()
    np.testing.assert_array_equal(store.volume(4), _volume(4))


def test_a_part_without_rows(tmp_path):
    store = _store(tmp_path, plan=part(num_videos=0))
    assert store.product.todo() == []
    with pytest.raises(IndexError):
        store.volume(0)


def _with_boxes(root, num_boxes):
    settings = {"codec": "png", "quality": 0, "boxes": {"policy": "entropy", "num_boxes": num_boxes}}
    return VolumeStore(open_product(root, "crops", part(), settings))


def test_a_row_holds_a_volume_for_each_box(tmp_path):
    store = _with_boxes(tmp_path, 3)
    rows = store.part.unit_rows(0)
    volumes = {row: np.stack([_volume(10 * row + box) for box in range(3)]) for row in rows}
    with store.product.lock(0):
        store.write_unit(0, [store.encode(np.concatenate(list(volumes[row]))) for row in rows])
    again = _again(store)
    for row in rows:
        assert again.volume(row).shape == (3, NUM_FRAMES, *INPUT, 3)
        np.testing.assert_array_equal(again.volume(row), volumes[row])
    with h5py.File(_file(store, 0)) as file:
        assert file.attrs["num_boxes"] == 3 and file.attrs["T"] == NUM_FRAMES
        assert len(file["offsets"]) == len(rows) * 3 * NUM_FRAMES + 1 and len(file["crc32"]) == len(rows)


@pytest.mark.parametrize("found", [0, -1, 65, 2.0, True, "2", None, [2]])
def test_an_impossible_number_of_boxes_is_refused(tmp_path, found):
    with pytest.raises(DamagedError, match=r"settings\.boxes\.num_boxes is .*, expected 1 to 64"):
        _with_boxes(tmp_path, found)
