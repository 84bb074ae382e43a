"""The reader's door: rows of several parts by one number, columns of the index, and the choice among stores."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import cache
from cache import plan_files
from cache.errors import CacheError, NoStoreError, NotDoneError, StaleCacheError, StoreAmbiguousError
from cache.fingerprint import fingerprint
from cache.plan_files import read_plan, write_part
from cache.sealed import read_sealed, seal
from cache.stores.open_product import open_product
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ArraySpec, ZarrStore
from tests.helpers.small_plan import INPUT, NUM_FRAMES, part

SPECS = {
    "base": [ArraySpec("logits", (2, 7), "f4", "unit"), ArraySpec("entropy", (), "f4", "unit")],
    "maps": [ArraySpec("codes", INPUT, "u2", "row"), ArraySpec("scale", (), "f4", "unit")],
    "boxes": [
        ArraySpec("box_input", (4,), "i4", "unit"),
        ArraySpec("box_source", (4,), "i4", "unit"),
        ArraySpec("saliency_share", (), "f4", "unit"),
    ],
}


def _base(plan, weights="w1"):
    return {"network": "small", "weights": weights, "clips": plan.settings}


def _maps(plan, objective="entropy", weights="w1"):
    return {"method": "input_gradient", "objective": objective, "base": _base(plan, weights)}


def _boxes(plan, policy="entropy", size=(3, 4)):
    settings = {"policy": policy, "size": list(size)}
    return settings | ({"seed": 0} if policy == "random" else {"maps": _maps(plan, policy)})


def _crops(plan, policy="entropy", pixels="source", size=(3, 4)):
    return {"pixels": pixels, "codec": "png", "quality": 0, "clips": plan.settings, "boxes": _boxes(plan, policy, size)}


def _values(product, rows, seed):
    """Values from the global row, so that a confusion of parts shows."""
    rows = np.array(rows) + seed
    if product == "base":
        logits = rows[:, None, None] * 100 + np.arange(14).reshape(2, 7)
        return {"logits": logits.astype(np.float32), "entropy": (-rows / 4).astype(np.float32)}
    if product == "maps":
        codes = rows[:, None, None] * 100 + np.arange(60).reshape(INPUT)
        return {"codes": codes.astype(np.uint16), "scale": (1 / (rows + 1)).astype(np.float32)}
    box = (rows[:, None] * 10 + [1, 2, 3, 4]).astype(np.int32)
    return {"box_input": box, "box_source": box + 1000, "saliency_share": (rows / 32).astype(np.float32)}


def _volume(row):
    return np.random.default_rng(row).integers(0, 256, (NUM_FRAMES, *INPUT, 3), np.uint8)


def _fill(root, plan, product, settings, units=None, skipped=(), seed=0):
    directory = open_product(root, product, plan, settings)
    store = VolumeStore(directory) if product in ("context", "crops") else ZarrStore.create(directory, SPECS[product])
    for unit in directory.todo() if units is None else units:
        here = [skip for skip in skipped if skip["video_id"] in [plan.video_ids[row] for row in plan.unit_rows(unit)]]
        rows = [plan.offset + row for row in plan.unit_rows(unit)]
        if isinstance(store, VolumeStore):
            lost = {skip["video_id"] for skip in here}
            volumes = [
                None if plan.video_ids[row - plan.offset] in lost else store.encode(_volume(row + seed)) for row in rows
            ]
            store.write_unit(unit, volumes, skipped=here)
        else:
            store.write_unit(unit, _values(product, rows, seed), skipped=here)
    return directory


def _write_plan(root):
    """Train 10 rows in 3 units, evaluation 6 rows (10 to 15) in 2 units."""
    write_part(root, part(aug_seeds=2))
    write_part(root, part(1, "eval", 2, 3, 1, first_video=50, eval_clips=3))


@pytest.fixture
def root(tmp_path):
    """A plan and no products."""
    _write_plan(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One store of everything; of the maps one unit is missing, of the crops one video."""
    root = tmp_path_factory.mktemp("made")
    _write_plan(root)
    train, evaluation = read_plan(root)
    for plan in (train, evaluation):
        _fill(root, plan, "base", _base(plan))
        _fill(root, plan, "maps", _maps(plan), units=[0, 2] if plan is train else None)
        _fill(root, plan, "boxes", _boxes(plan), units=[0, 2] if plan is train else None)
        _fill(root, plan, "context", {"codec": "png", "quality": 0, "clips": plan.settings}, seed=500)
    _fill(root, train, "crops", _crops(train), [0, 2], [{"video_id": "00001", "error": "VideoMissing", "detail": ""}])
    return root


@pytest.fixture
def full(made, tmp_path):
    """A copy of `made` to play with."""
    return shutil.copytree(made, tmp_path / "full")


def test_a_run_with_only_a_plan(root):
    run = cache.open(root)
    assert run.num_rows == len(run.index) == 16
    assert run.index.row.tolist() == run.index.index.tolist() == list(range(16))
    assert not run.index.saliency_done.any() and not run.index.crop_done.any()
    assert run.index.box_input_top.isna().all() and run.index.entropy.isna().all()
    assert run.stores().empty
    with pytest.raises(NoStoreError, match="has no maps store; it has: none"):
        run.saliency(0)
    with pytest.raises(NoStoreError, match="has no crops store"):
        cache.open(root, crops="entropy")


def test_rows_count_through_all_parts(full):
    run = cache.open(full)
    for row in (0, 9, 10, 15):
        values = _values("maps", [row], 0)
        wanted = values["codes"][0].astype(np.float32) * values["scale"][0]
        assert run.saliency(row).dtype == np.float32
        np.testing.assert_array_equal(run.saliency(row), wanted)
        np.testing.assert_array_equal(run.logits(row), _values("base", [row], 0)["logits"][0])
        np.testing.assert_array_equal(run.context(row), _volume(row + 500))
    np.testing.assert_array_equal(run.focus(np.int64(9)), _volume(9))
    rows = [15, 2, 10, 2, 9]
    np.testing.assert_array_equal(run.read("base", "logits", rows), _values("base", rows, 0)["logits"])
    for row in (-1, 16):
        with pytest.raises(IndexError, match="rows 0 to 15"):
            run.focus(row)
    with pytest.raises(ValueError, match="at least one row"):
        run.read("base", "logits", [])


def test_what_is_not_done_is_said(full):
    run = cache.open(full)
    with pytest.raises(NotDoneError, match="unit 1 of maps"):
        run.saliency(4)
    with pytest.raises(NotDoneError, match="00001 was skipped, VideoMissing"):
        run.focus(2)
    with pytest.raises(NotDoneError, match="nothing for part-001-eval"):
        run.focus(10)


def test_index_has_every_column_and_gaps_where_nothing_is_done(full):
    index = cache.open(full).index
    saliency_done = [row not in (4, 5, 6, 7) for row in range(16)]
    assert index.saliency_done.tolist() == saliency_done
    assert index.crop_done.tolist() == [row in (0, 1, 8, 9) for row in range(16)]
    assert index.box_input_top.isna().tolist() == [not done for done in saliency_done]
    row = index.loc[13]
    assert (row.part, row.split, row.video_id, row.clip_index, row.aug_index) == (
        "part-001-eval",
        "eval",
        "00051",
        0,
        0,
    )
    assert (row.source_height, row.source_width, row.theta_crop_top, row.theta_crop_left) == (75, 87, 0, 1)
    assert [row[f"box_input_{edge}"] for edge in ("top", "left", "height", "width")] == [131, 132, 133, 134]
    assert [row[f"box_source_{edge}"] for edge in ("top", "left", "height", "width")] == [1131, 1132, 1133, 1134]
    assert row.saliency_share == 13 / 32 and row.entropy == 13 / 4
    of_clip = cache.open(full).read("base", "entropy", [row["row"]])  # the array holds minus it, the paper's L_E
    assert of_clip.item() == 13 / 4
    assert index.entropy.notna().all() and np.isnan(index.saliency_share[4])
    assert index.box_input_top.dtype == "Int32" and index.saliency_share.dtype == "float32"
    assert index.video_id.tolist()[:3] == ["00000", "00000", "00001"]


def test_stores_lists_every_product_and_part(full):
    stores = cache.open(full).stores().set_index(["product", "part"])
    assert len(stores) == 9
    line = stores.loc[("crops", "part-000-train")]
    assert (line["name"], line.units_done, line.units, line.rows_done) == ("entropy/source", 2, 3, 4)
    assert line.bytes == sum(path.stat().st_size for path in full.glob("crops/*/volumes/*.h5"))
    assert line["key"] == next(full.glob("crops/*")).name
    assert stores.loc[("maps", "part-001-eval")].rows_done == 6
    assert "objective=entropy" in stores.loc[("maps", "part-001-eval")].settings


def test_several_stores_need_a_choice(full):
    train = read_plan(full)[0]
    other = _fill(full, train, "maps", _maps(train, "cross_entropy"), seed=7)
    run = cache.open(full)  # opening is no question yet
    assert len(run.stores()) == 10
    run.logits(0)
    for question in (lambda: run.saliency(0), lambda: run.index):
        with pytest.raises(StoreAmbiguousError, match=r"choose one with maps=.*cross_entropy.*; maps .*entropy"):
            question()
    entropy, cross = cache.open(full, maps="entropy"), cache.open(full, maps="cross_entropy")
    assert entropy.saliency(0)[0, 1] == 1 and cross.saliency(0)[0, 1] == np.float32(701) * np.float32(1 / 8)
    by_key = [other.key, other.key[:6], fingerprint(other.settings)[:8]]
    assert all(cache.open(full, maps=key).saliency(0)[0, 1] == cross.saliency(0)[0, 1] for key in by_key)
    with pytest.raises(NoStoreError, match=r"no maps store that fits .*'softmax.*it has: maps .*cross_entropy"):
        cache.open(full, maps="softmax")
    with pytest.raises(NoStoreError):
        cache.open(full, maps=other.key[:5])  # too short to mean a key


def test_a_choice_narrows_what_it_was_made_from(full):
    train = read_plan(full)[0]
    _fill(full, train, "maps", _maps(train, "cross_entropy"), seed=7)
    for policy, seed in [("cross_entropy", 7), ("random", 30)]:
        _fill(full, train, "boxes", _boxes(train, policy), seed=seed)
        _fill(full, train, "crops", _crops(train, policy), seed=seed)
    run = cache.open(full, crops="cross_entropy")
    assert run.index.box_input_top[0] == 71 and run.saliency(0)[0, 1] == np.float32(701) * np.float32(1 / 8)
    run = cache.open(full, boxes="entropy")
    np.testing.assert_array_equal(run.focus(0), _volume(0))
    assert run.index.crop_done.sum() == 4 and run.index.saliency_done.sum() == 12
    run = cache.open(full, crops="random")  # these boxes know no maps, so several maps are no question
    assert run.index.box_input_top[0] == 301 and not run.index.saliency_done.any()
    with pytest.raises(NoStoreError):
        cache.open(full, crops="random", boxes="entropy")
    _fill(full, train, "crops", _crops(train, "random", "input"), seed=60)
    with pytest.raises(StoreAmbiguousError, match=r"random/input.*random/source|random/source.*random/input"):
        cache.open(full, crops="random")
    np.testing.assert_array_equal(cache.open(full, crops="random/input").focus(0), _volume(60))


def test_other_box_size_and_other_weights_are_other_stores(full):
    train, evaluation = read_plan(full)
    _fill(full, train, "boxes", _boxes(train, size=(4, 3)), seed=1)
    with pytest.raises(StoreAmbiguousError, match=r"size=\[3, 4\].*size=\[4, 3\]|size=\[4, 3\].*size=\[3, 4\]"):
        cache.open(full, boxes="entropy")
    assert cache.open(full, crops="entropy").index.box_input_top[0] == 1  # the crops say which boxes
    _fill(full, evaluation, "base", _base(evaluation, "w2"))
    with pytest.raises(StoreAmbiguousError, match=r"weights=w1.*weights=w2|weights=w2.*weights=w1"):
        cache.open(full).logits(0)
    assert cache.open(full, crops="entropy").logits(0)[0, 1] == 1


def test_products_of_another_plan_are_stale(full):
    path = next(full.glob("crops/*/run.json"))
    run = read_sealed(path)
    path.write_bytes(seal(run | {"rows_sha256": "0"}))
    with pytest.raises(StaleCacheError, match="rows_sha256: 0 != "):
        cache.open(full)
    with pytest.raises(CacheError, match="holds no plan"):
        cache.open(full / "crops")


def test_extending_the_plan_leaves_every_older_byte(full):
    before = {path: path.read_bytes() for path in full.rglob("*") if path.is_file()}
    old = cache.open(full).index
    write_part(full, part(2, first_video=90))
    extended = read_plan(full)[2]
    _fill(full, extended, "base", _base(extended))
    run = cache.open(full)
    assert before == {path: path.read_bytes() for path in before}
    assert run.num_rows == 26 and run.logits(25)[0, 0] == 2500
    assert run.index.iloc[:16].equals(old)


def test_tables_keep_text(root):
    (root / "videos.csv").write_text("id,frames,labels\n07E49,12,\n00607,NA,c001 1 2\n")
    (root / "skipped.csv").write_text("id,error\nnull,VideoMissing\n")
    run = cache.open(root)
    assert run.videos.to_numpy().tolist() == [["07E49", "12", ""], ["00607", "NA", "c001 1 2"]]
    assert run.skipped.id.tolist() == ["null"]


def test_a_run_travels_to_workers(full):
    run = cache.open(full)
    run.focus(0), run.saliency(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(run)).focus(0), _volume(0))


def test_importing_the_cache_is_light():
    code = "import sys, cache; sys.exit(any(name in sys.modules for name in ('pandas', 'zarr', 'h5py', 'torch', 'av')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


@pytest.mark.parametrize("at_once", [100, 0])
def test_rows_of_a_video_are_those_of_the_index(full, monkeypatch, at_once):
    monkeypatch.setattr(plan_files, "READ_AT_ONCE", at_once)
    run = cache.open(full)
    for video_id in ("00001", "00051"):
        wanted = run.index[run.index.video_id == video_id]
        pd.testing.assert_frame_equal(run.rows_of(video_id), wanted)
        assert len(wanted) in (2, 3)
    with pytest.raises(KeyError, match="has no video '00009'"):
        run.rows_of("00009")
