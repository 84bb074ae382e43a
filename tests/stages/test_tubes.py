"""A box that moves with time through all stages: maps by segment, volumes, evaluation, predictions, pictures."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cache
from pipeline.data.box_policies import find_boxes
from pipeline.data.clips import focused_volumes, source_frames
from pipeline.predict import run as predict
from pipeline.predict.passes import WindowRule
from pipeline.predict.tables import Report
from pipeline.report import page, show
from pipeline.run.fusion_models import Variant
from pipeline.run.predictions import read_video
from pipeline.run.stores import boxes_of, open_run
from pipeline.stages import crops, evaluate, saliency, train_fusion
from pipeline.stages.train_looker import _examples
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.online_clips import OnlineClips
from tests.conftest import TinyRun, _copy
from tests.helpers.killed import killed_at
from tests.helpers.tiny_data import VIDEOS, caches, change
from tests.predict.test_predict import evaluated
from tests.report import test_browser as browsers
from tests.report.test_browser import browser  # noqa: F401

EDGES = ["top", "left", "height", "width"]
NAME = "late-entropy-tube2-source"


@pytest.fixture(scope="module")
def tube(tiny_run, tmp_path_factory):
    """The finished run with maps and boxes of two segments, crops, and a late fusion trained on them and evaluated."""
    run = _copy(tiny_run, tmp_path_factory.mktemp("tube"))
    config = change(run.config, saliency={"time_segments": 2})
    saliency.run(config, run.path)
    crops.run(config, run.path, ("entropy",))
    train_fusion.run(config, run.path, "late")
    evaluate.run(config, run.path)
    return TinyRun(run.data, run.path, config)


def test_maps_are_those_of_the_clip_by_segment_and_old_stores_stay(tube, tiny_run):
    """The maximum over segments is the map of the whole clip, code by code; Base's logits are not computed again."""
    before, after = (caches(run.path, "base", "maps", "boxes", "context", "crops") for run in (tiny_run, tube))
    added = after.keys() - before.keys()
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in added} == {"maps", "boxes", "crops"}
    stores, one = open_run(tube.path, tube.config), open_run(tube.path, tiny_run.config)
    for part in stores.run.parts:
        maps, whole = stores.maps(part, "entropy"), one.maps(part, "entropy")
        codes = maps.read_all("codes")
        assert codes.shape == (part.num_rows, 2, 28, 28) and codes.dtype == np.uint16
        np.testing.assert_array_equal(codes.max(1), whole.read_all("codes"))
        np.testing.assert_array_equal(maps.read_all("scale"), whole.read_all("scale"))
        differ = [len(set(part.clip(row).frame_indices)) > 2 for row in range(part.num_rows)]
        assert (codes[differ, 0] != codes[differ, 1]).any((1, 2)).all()
        assert maps.arrays["codes"].metadata.dimension_names == ("row", "segment", "y", "x")
        new = {"time_segments": 2}
        assert stores.maps_settings(part, "entropy") == one.maps_settings(part, "entropy") | new
        assert stores.boxes_settings(part, "entropy").items() >= new.items()
        for policy in ("random", "center"):
            assert stores.boxes_settings(part, policy) == one.boxes_settings(part, policy)
        assert stores.base_settings(part) == one.base_settings(part)
    assert stores.looker_folder == one.looker_folder  # it learns the map of the whole clip
    (_, of_tube, _), (_, of_clip, _) = (_examples(each, torch.device("cpu")) for each in (stores, one))
    assert torch.equal(of_tube, of_clip)


def test_stores_hold_a_box_a_segment_and_one_volume(tube):
    stores, row = open_run(tube.path, tube.config), 3
    part = stores.run.parts_of("train")[0]
    codes = stores.maps(part, "entropy").read("codes", row)
    found = find_boxes(part.clip(row), "entropy", tube.config.saliency, (0, 0), codes)
    store = stores.boxes(part, "entropy")
    assert store.read("box_input", row).tolist() == [[getattr(box, one) for one in EDGES] for box, _ in found]
    assert store.arrays["box_input"].metadata.dimension_names == ("row", "segment", "edge")
    np.testing.assert_allclose(store.read("saliency_share", row), [share for _, share in found])
    frames = {index: frame for index, frame, _ in source_frames(part, [row], tube.data)}
    cut = focused_volumes(part.clip(row), [box for box, _ in found], "source", frames, None, segments=2)
    run = cache.open(tube.path, boxes="entropy-tube2")
    assert found[0][0] != found[1][0] and cut.shape == (4, 28, 28, 3)
    np.testing.assert_array_equal(run.focus(row), cut)
    table = run.boxes(row)[[f"box_input_{one}" for one in EDGES]]
    assert table.to_numpy().tolist() == store.read("box_input", row).tolist()
    assert run.saliency(row).shape == (2, 28, 28) and run.index.crop_done.all()
    names = {(one.product, one.name) for one in run.stores().itertuples()}
    assert {("maps", "entropy-tube2"), ("crops", "entropy-tube2/source"), ("maps", "entropy")} <= names
    assert boxes_of(stores, part, "entropy").shape == (8, 2, 4) and boxes_of(stores, part, "center").shape == (8, 4)


@pytest.mark.parametrize(
    "owner, name, count, when",
    [
        ("cache.commit", "write_once", 3, lambda path, content: path.parent.name == "done"),
        ("cache.stores.zarr_store", "make_durable", 2, lambda *args: True),
    ],
)
def test_killed_and_run_again_gives_the_same_bytes(tiny_run, tube, tmp_path, owner, name, count, when):
    run = _copy(tiny_run, tmp_path, "context", "crops", "results*", "late*", "concat*", "boxes", "maps")
    stage = lambda: saliency.run(tube.config, run.path)  # noqa: E731
    assert killed_at(owner, name, count, stage, when)
    assert (run.path / "maps").is_dir()
    saliency.run(tube.config, run.path)
    found, wanted = (caches(one.path, "maps", "boxes") for one in (run, tube))
    stores = {path.split("/done/")[0] for path in found if "/done/" in path}
    wanted = {path: digest for path, digest in wanted.items() if "/".join(path.split("/")[:2]) in stores}
    assert len(stores) == 4 and found == wanted


@pytest.mark.parametrize("policy", ["entropy", "motion", "own"])
def test_on_the_fly_cuts_what_the_caches_hold(tube, tmp_path, policy):
    table = tmp_path / "own.csv"
    lines = ["07E49,0,0.3,0,0,9,9", "07E49,0.3,9,30,60,9,9", "00007,0,0.2,0,0,9,9", "00007,0.26,9,50,80,9,9"]
    table.write_text("\n".join(["video_id,start,end,top,left,height,width", *lines, ""]))
    more = {"objectives": ("motion",)} if policy == "motion" else {"own_boxes": str(table), "box_side": 12}
    more |= {"time_segments": 4} if policy == "own" else {}
    config = change(tube.config, saliency=more if policy != "entropy" else {})
    run = _copy(tube, tmp_path) if policy != "entropy" else tube
    if policy == "motion":
        saliency.run(config, run.path, splits=("train",))
    if policy != "entropy":
        crops.run(config, run.path, (policy,), splits=("train",))
    stores, variant = open_run(run.path, config), Variant("concat", policy, "source")
    volumes = CachedVolumes(stores, "train", variant)
    cached = volumes.load([rows[1] for rows in volumes.places().values()])
    online = OnlineClips(stores.run, config, stores.base_weights, variant, "base", torch.device("cpu"))
    fresh = online.cut(None, online.load(1, [0, 1, 2, 3]))
    assert cached.focused.shape == (4, 4, 28, 28, 3) and torch.equal(cached.focused, fresh.focused)
    if policy == "own":  # 00007 has three frames; the last one is repeated, at another box
        context, focused = fresh.first_look[2], fresh.focused[2]
        assert torch.equal(context[2], context[3]) and not torch.equal(focused[2], focused[3])


def test_results_are_named_and_follow_the_segments_of_the_training(tube, tiny_run, monkeypatch):
    table = pd.read_csv(tube.path / "results.csv").set_index("experiment")
    assert table.index.tolist() == ["base", "concat-entropy-source", "late-entropy-source", NAME]
    assert ", box 16 in each of 2 segments," in table.protocol[NAME]
    assert ", box 16," in table.protocol["late-entropy-source"]
    monkeypatch.setattr(evaluate, "_evaluate", None)
    evaluate.run(tiny_run.config, tube.path)


def test_predictions_equal_the_evaluation(tube, tmp_path):
    experiment = predict.Experiment(tube.path, NAME, ("fusion.batch_size=2",), "cpu")
    places = [tube.data / f"{video_id}.mp4" for video_id in VIDEOS if VIDEOS[video_id][0] == "test"]
    predict.run(experiment, places, tmp_path, WindowRule("as-evaluated"), Report(), predict.Workers(), True)
    stores = open_run(tube.path, tube.config)
    (part,) = stores.run.parts_of("test")
    for video_id, scores in evaluated(tube, NAME).items():
        found = read_video(tmp_path, video_id)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
        rows = np.flatnonzero(part.rows.video_id == video_id)
        stored = stores.boxes(part, "entropy").read_rows("box_source", rows)
        assert found.edges.tolist() == stored.tolist() and found.segment == 0.25
        assert found.boxes[EDGES].to_numpy().tolist() == stored.reshape(-1, 4).tolist()
        first = found.windows.start.to_numpy()
        np.testing.assert_allclose(found.boxes.start, np.stack([first, first + 0.25], 1).ravel())
        np.testing.assert_allclose(found.boxes.end, np.stack([first + 0.25, first + 0.5], 1).ravel())
    assert (tmp_path / "films/T0003.mp4").is_file() and len(pd.read_csv(tmp_path / "boxes.csv")) == 2 * part.num_rows


def test_report_and_show_move_the_box(tube, tmp_path):
    page.run(tube.path, 2, NAME, tmp_path / "page.html")
    text, run = (tmp_path / "page.html").read_text(), cache.open(tube.path, boxes="entropy-tube2")
    assert "Boxes: entropy-tube2/source" in text and text.count("which moves") == 2
    for card in re.findall(r'<article class="card".*?</article>', text, re.DOTALL):
        video_id, clip = re.search(r"<h3>(\S+) <small>clip (\d)", card).groups()
        row = run.index[(run.index.video_id == video_id) & (run.index.clip_index == int(clip))].row.item()
        sides = [f"box_input_{edge}" for edge in ("left", "top", "width", "height")]
        lines = (run.boxes(row)[sides] / 28).to_numpy()
        places = [";".join(f"--{name}:{value:.5f}" for name, value in zip("ltwh", one, strict=True)) for one in lines]
        assert f'data-places="{"|".join([places[0]] * 2 + [places[1]] * 2)}"' in card
        assert card.count('class="outline"') == 1
    show.run(tube.path, "T0003", (1,), "entropy-tube2", tmp_path)
    picture = np.asarray(Image.open(tmp_path / "T0003.png"))
    assert picture.shape == (26 + 3 * 232 + 8, 88 + 4 * 232, 3)
    row = run.index[(run.index.video_id == "T0003") & (run.index.clip_index == 1)].row.item()
    boxes_input = run.boxes(row).drop(columns="saliency_share")
    for frame in range(4):  # the white line of the outline, 8 pixels of the picture for one of the input
        box = boxes_input.iloc[frame // 2].astype(int)
        left, top = 88 + frame * 232 + 8 * box.box_input_left, 26 + 8 * box.box_input_top
        assert picture[top + 1, left + 1 : left + 8 * box.box_input_width - 1].min() == 255


@browsers.pytestmark
def test_a_box_that_moves_is_drawn_where_it_is_in_each_frame(browser, tube, tmp_path):  # noqa: F811
    path, run = page.run(tube.path, 2, NAME, tmp_path / "page.html").path, cache.open(tube.path, boxes="entropy-tube2")
    for width in (browsers.PHONE, browsers.DESK):
        browsers.opened(browser, path, width)
        for frame in (0, 1, 2, 3):
            browsers.enter(browser, "#frame", str(frame), "input")
            assert browsers.assert_drawn(browser, run, frame // 2) == 2
