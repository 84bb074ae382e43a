"""Several boxes a clip through all stages: stores, volumes, both fusions, evaluation by the rule of the training."""

import base64
import io
import json
import re

import av
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import cache
from models.fusion import late_fusion
from models.i3d import as_input
from pipeline.cli.main import main
from pipeline.data.box_policies import find_boxes
from pipeline.data.clips import focused_volumes, source_frames
from pipeline.errors import AnnotationError, StageError
from pipeline.predict import run as predict
from pipeline.predict.passes import WindowRule
from pipeline.predict.tables import Report
from pipeline.report import page, show
from pipeline.run.fusion_models import Variant, read_model
from pipeline.run.networks import build_trained
from pipeline.run.predictions import read_video
from pipeline.run.stores import open_run
from pipeline.stages import boxes, crops, evaluate, saliency, train_fusion
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.fusion_step import fusion_logits
from pipeline.training.online_clips import OnlineClips
from tests.conftest import TinyRun, _copy
from tests.helpers.tiny_data import VIDEOS, caches, change
from tests.predict.test_predict import evaluated
from tests.report import test_browser as browsers
from tests.report.test_browser import browser  # noqa: F401

TOP2 = {"box_rule": "top-k", "num_boxes": 2}
NESTED = {"box_rule": "nested", "box_sides": (8, 12, 20)}
SCALE = {"box_rule": "scale", "box_sides": (8, 20), "box_margin": 0.25, "box_jitter": 2}
EDGES = ("top", "left", "height", "width")


@pytest.fixture(scope="module")
def twice(tiny_run, tmp_path_factory):
    """The finished run with two boxes a clip cut, both fusions trained on them, and evaluated."""
    run = _copy(tiny_run, tmp_path_factory.mktemp("twice"))
    config = change(run.config, saliency=TOP2)
    crops.run(config, run.path, ("entropy",))
    for fusion in ("late", "concat"):
        train_fusion.run(config, run.path, fusion)
    evaluate.run(config, run.path)
    return TinyRun(run.data, run.path, config)


def boxes_by_hand(stores, part, row):
    codes = stores.maps(part, "entropy").read("codes", row)
    return [box for box, _ in find_boxes(part.clip(row), "entropy", stores.config.saliency, (0, 0), codes)]


def test_another_rule_runs_no_network_and_keeps_every_key_of_stage_1(looked, tmp_path, monkeypatch):
    before = caches(looked.path, "base", "maps")
    monkeypatch.setattr(saliency, "saliency_maps", None)  # a call would be a TypeError
    monkeypatch.setattr(saliency, "motion_maps", None)
    known, table = {}, own_table(tmp_path / "a.csv", "83654,0,9,20,4,8,8,1")
    for settings in ({}, TOP2, NESTED, SCALE):
        config = change(looked.config, saliency=settings | {"own_boxes": str(table)})
        outcome = saliency.run(config, looked.path)
        assert outcome.summary.startswith("0 of 14 rows computed now")
        stores = open_run(looked.path, config)
        key = json.dumps(stores.boxes_settings(stores.run.parts[0], "entropy"), sort_keys=True)
        known[key] = stores.boxes(stores.run.parts[0], "entropy").read_all("box_input")
        for policy in ("random", "center", "own"):
            boxes.run_policy(stores, policy)
    assert caches(looked.path, "base", "maps") == before
    assert [one.shape for one in known.values()] == [(8, 4), (8, 2, 4), (8, 3, 4), (8, 4)]
    assert json.loads(next(iter(known))).keys() == {"policy", "size", "maps"}  # as before there were rules


def test_stores_hold_every_box_and_its_volume(twice):
    """box_source undoes theta, crops are cut from the source box by box; the reader gives them by row."""
    stores, row = open_run(twice.path, twice.config), 3
    part = stores.run.parts_of("train")[0]
    expected = boxes_by_hand(stores, part, row)
    store = stores.boxes(part, "entropy")
    assert store.read("box_input", row).tolist() == [[getattr(box, one) for one in EDGES] for box in expected]
    theta = part.clip(row).theta
    sources = [theta.to_source(box) for box in expected]
    assert store.read("box_source", row).tolist() == [[getattr(box, one) for one in EDGES] for box in sources]
    assert expected[0] != expected[1] and store.read("saliency_share", row).shape == (2,)
    frames = {index: frame for index, frame, _ in source_frames(part, [row], twice.data)}
    cut = focused_volumes(part.clip(row), expected, "source", frames, None)
    volume = stores.crops(part, "entropy", "source").volume(row)
    assert volume.shape == (2, 4, 28, 28, 3)
    np.testing.assert_array_equal(volume, cut)
    run = cache.open(twice.path, boxes=store.product.key)
    np.testing.assert_array_equal(run.focus(row), cut)
    table = run.boxes(row)
    assert table[[f"box_input_{one}" for one in EDGES]].to_numpy().tolist() == store.read("box_input", row).tolist()
    assert run.index.box_input_top[row] == expected[0].top and run.index.crop_done.all()
    assert run.index.saliency_share[row] == table.saliency_share[0]


def test_boxes_of_different_sides_become_volumes_of_one_size(looked):
    config = change(looked.config, saliency=NESTED)
    crops.run(config, looked.path, ("entropy", "center"), "input", context=False, splits=("test",))
    stores = open_run(looked.path, config)
    part = stores.run.parts_of("test")[0]
    in_the_middle = [[10, 10, 8, 8], [8, 8, 12, 12], [4, 4, 20, 20]]
    assert stores.boxes(part, "center").read("box_input", 0).tolist() == in_the_middle
    assert stores.crops(part, "center", "input").volume(0).shape == (3, 4, 28, 28, 3)


def test_late_fusion_pools_the_logits_of_the_boxes(twice):
    stores = open_run(twice.path, twice.config)
    model = read_model(next(twice.path.glob("models/late-entropy-top2-source-*")))
    network = build_trained(stores.base_weights, model.folder, model.weights).eval()
    volumes = CachedVolumes(stores, "train", model.variant)
    batch = volumes.load([rows[0] for rows in volumes.places().values()])
    assert batch.focused.shape == (4, 2, 4, 28, 28, 3) and model.num_boxes == batch.num_boxes == 2
    with torch.inference_mode():
        first, second = (network(as_input(batch.focused[:, one], torch.device("cpu"))) for one in (0, 1))
        assert (first > second).any() and (second > first).any()
        for pool, pooled in (("max", torch.maximum(first, second)), ("mean", (first + second) / 2)):
            found = fusion_logits(network, batch, "late", "logits", pool=pool)
            torch.testing.assert_close(found, late_fusion(batch.first_look, pooled), rtol=1e-4, atol=1e-5)


def test_results_are_named_and_follow_the_rule_of_the_training(twice, monkeypatch):
    """A config with one box evaluates every model by its own rule: nothing is computed, each has one result."""
    names = ["base", "concat-entropy-source", "concat-entropy-top2-source", "late-entropy-source",
             "late-entropy-top2-source"]  # fmt: skip
    table = pd.read_csv(twice.path / "results.csv")
    assert table.experiment.tolist() == names
    by_name = table.set_index("experiment").protocol
    assert ", 2 boxes of 16," in by_name["late-entropy-top2-source"] and ", box 16," in by_name["late-entropy-source"]
    monkeypatch.setattr(evaluate, "_evaluate", None)
    evaluate.run(change(twice.config, saliency={"box_rule": "fixed", "num_boxes": 1}), twice.path)


def test_other_boxes_are_asked_for_by_name(twice):
    """Late fusion takes any number of boxes, and says so in its name; a concatenation has as many as at training."""
    one = change(twice.config, saliency={"box_rule": "fixed", "num_boxes": 1, "box_side": 16})
    late, concat = (next(twice.path.glob(f"models/{fusion}-entropy-top2-source-*")) for fusion in ("late", "concat"))
    path = evaluate.run_model(one, twice.path, late, "entropy")
    assert path.name.startswith("late-entropy-top2-source-eval-entropy-")
    with pytest.raises(StageError, match=r"joins 2 boxes a clip, and saliency\.box_rule fixed gives 1"):
        evaluate.run_model(one, twice.path, concat, "entropy")
    for file in path.parent.glob(f"{path.stem}.*"):
        file.unlink()


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_predictions_equal_the_evaluation(twice, tmp_path, fusion):
    name = f"{fusion}-entropy-top2-source"
    experiment = predict.Experiment(twice.path, name, ("fusion.batch_size=2",), "cpu")
    places = [twice.data / f"{video_id}.mp4" for video_id in VIDEOS if VIDEOS[video_id][0] == "test"]
    predict.run(experiment, places, tmp_path, WindowRule("as-evaluated"), Report(), predict.Workers(), True)
    wanted, stores = evaluated(twice, name), open_run(twice.path, twice.config)
    (part,) = stores.run.parts_of("test")
    for video_id, scores in wanted.items():
        found = read_video(tmp_path, video_id)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
        rows = np.flatnonzero(part.rows.video_id == video_id)
        stored = stores.boxes(part, "entropy").read_rows("box_source", rows)
        assert found.boxes[list(EDGES)].to_numpy().tolist() == stored.reshape(-1, 4).tolist()
        assert found.boxes.start.tolist() == np.repeat(found.windows.start, 2).tolist()
    assert len(pd.read_csv(tmp_path / "boxes.csv")) == 2 * part.num_rows
    film = next(frames_of(tmp_path / "films/T0003.mp4"))
    assert film.shape[1] == 432 + 2 * (8 + 288)  # 60 x 90 source pixels at 288 rows, then each box in a square


def frames_of(path):
    with av.open(str(path)) as container:
        yield from (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))


def test_report_and_show_draw_every_box(twice, tmp_path):
    page.run(twice.path, 2, "late-entropy-top2-source", tmp_path / "page.html")
    text, run = (tmp_path / "page.html").read_text(), cache.open(twice.path, boxes="entropy-top2")
    assert "Boxes: entropy-top2/source" in text
    for card in re.findall(r'<article class="card".*?</article>', text, re.DOTALL):
        video_id, clip = re.search(r"<h3>(\S+) <small>clip (\d)", card).groups()
        row = run.index[(run.index.video_id == video_id) & (run.index.clip_index == int(clip))].row.item()
        boxes = run.boxes(row)
        for number, box in enumerate(boxes.itertuples(), 1):
            place = (box.box_input_left, box.box_input_top, box.box_input_width, box.box_input_height)
            style = ";".join(f"--{name}:{value / 28:.5f}" for name, value in zip("ltwh", place, strict=True))
            assert f'<div class="outline" style="{style}"><b>{number}</b></div>' in card
            _, rest = card.split(f"enlarged {number}</figcaption>")
            assert f'{style}"><div' in card.split(f"enlarged {number}</figcaption>")[0].rpartition("<figure")[2]
            content = re.search(r"--f:url\(data:image/webp;base64,([^)]+)\)", rest).group(1)
            film = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)
            assert np.abs(film - np.concatenate(list(run.focus(row)[number - 1]), 1)).mean() < 6
            assert f"{box.box_source_height} \N{MULTIPLICATION SIGN} {box.box_source_width}" in card
    show.run(twice.path, "T0003", (1,), "entropy-top2", tmp_path)
    assert Image.open(tmp_path / "T0003.png").size == (88 + 4 * 232, 26 + 5 * 232 + 8)


@browsers.pytestmark
def test_every_box_is_drawn_in_its_place(browser, twice, tmp_path):  # noqa: F811
    """In the browser, on a desktop and on a phone, with its number in it."""
    path = page.run(twice.path, 2, "late-entropy-top2-source", tmp_path / "page.html").path
    for width in (browsers.PHONE, browsers.DESK):
        browsers.opened(browser, path, width)
        assert browsers.assert_drawn(browser, cache.open(twice.path, boxes="entropy-top2")) == 2
        assert browsers.texts(browser, ".outline b") == ["1", "2"] * 2
        assert browser.execute_script("const e = document.documentElement; return e.scrollWidth == e.clientWidth")


@pytest.mark.parametrize("policy, rule", [("entropy", TOP2), ("random", NESTED | {"box_jitter": 3}), ("motion", TOP2)])
def test_on_the_fly_cuts_what_the_caches_hold(looked, policy, rule):
    objectives = ("entropy", "motion") if policy == "motion" else ("entropy",)
    config = change(looked.config, saliency=rule | {"objectives": objectives})
    saliency.run(config, looked.path)
    crops.run(config, looked.path, (policy,), splits=("train",))
    stores, variant = open_run(looked.path, config), Variant("concat", policy, "source")
    volumes = CachedVolumes(stores, "train", variant)
    cached = volumes.load([rows[1] for rows in volumes.places().values()])
    online = OnlineClips(stores.run, config, stores.base_weights, variant, "base", torch.device("cpu"))
    fresh = online.cut(None, online.load(1, [0, 1, 2, 3]))
    assert cached.focused.ndim == 6 and torch.equal(cached.focused, fresh.focused)


def test_motion_runs_no_network(looked, monkeypatch):
    monkeypatch.setattr(saliency, "saliency_maps", None)
    config = change(looked.config, saliency={"objectives": ("motion",)})
    saliency.run(config, looked.path)
    stores = open_run(looked.path, config)
    part = stores.run.parts[0]
    moves = [len(set(part.clip(row).frame_indices)) > 1 for row in range(part.num_rows)]
    highest = stores.maps(part, "motion").read_all("codes").max((1, 2))
    assert highest.max() == 65535 and not highest[np.logical_not(moves)].any()
    assert stores.maps_settings(part, "motion").keys() == {"method", "objective", "clips"}


def own_table(path, *lines):
    path.write_text("\n".join(["video_id,start,end,top,left,height,width,score", *lines]) + "\n")
    return path


def test_a_table_of_boxes_is_a_policy(looked, tmp_path, caplog):
    """Boxes by time, in the middle where the table is silent; the content is in the key, the path is not."""
    table = own_table(tmp_path / "a.csv", "83654,0,9,20,4,8,8,1", "T0002,0,0.4,8,8,8,8,0.5")
    config = change(looked.config, saliency={"own_boxes": str(table), "box_side": 8})
    stores = open_run(looked.path, config)
    boxes.run_policy(stores, "own")
    assert "has no box at the time of" in caplog.text
    part = stores.run.parts_of("test")[0]
    found = stores.boxes(part, "own").read_all("box_source")
    of_83654 = found[[row for row, name in enumerate(part.video_ids) if name == "83654"]]
    centres = of_83654[:, :2] + of_83654[:, 2:] / 2
    assert np.abs(centres - [24, 8]).max() <= 2  # (20 + 8/2, 4 + 8/2), to a pixel of the input
    assert [10, 10, 8, 8] in stores.boxes(part, "own").read_all("box_input").tolist()  # the middle of 28
    key = stores.boxes_settings(part, "own")
    assert key.keys() == {"policy", "size", "own_boxes"} and len(key["own_boxes"]) == 64
    assert np.isnan(stores.boxes(part, "own").read_all("saliency_share")).all()
    with pytest.raises(StageError, match=r"names no table; say --boxes FILE\.csv"):
        boxes.run_policy(open_run(looked.path, looked.config), "own")


@pytest.mark.parametrize(
    "line, words",
    [
        ("somebody,0,1,0,0,5,5,1", "line 2, column video_id: 'somebody'; expected a video of the run, such as"),
        ("83654,0,1,76,0,5,5,1", "line 2, column top to width: '76, 0, 5, 5'; expected a box inside 80 x 48 pixels"),
        ("83654,2,1,0,0,5,5,1", "line 2, column end: '1'; expected seconds after the start, 2"),
        ("83654,0,1,0,0,5,5,nan", "line 2, column score: 'nan'; expected a number above 0"),
        ("83654,0,1,0,0,5,5,0", "line 2, column score: '0'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_line(looked, tmp_path, line, words):
    table = own_table(tmp_path / "a.csv", line)
    config = change(looked.config, saliency={"own_boxes": str(table)})
    with pytest.raises(AnnotationError) as error:
        crops.run(config, looked.path, ("own",))
    assert words in str(error.value) and str(table) in str(error.value)
    assert not list(looked.path.glob("crops/*/done/*"))


def test_a_model_of_a_table_is_evaluated_without_it_and_predicts_with_another(looked, tmp_path):
    """Its key and its caches know the table by its content; new videos need one of their own."""
    table = own_table(tmp_path / "hands.csv", "83654,0,9,20,4,8,8,1", "07E49,0,9,8,8,8,8,0.5")
    options = ["--config", str(looked.path / "config.toml"), "--run", str(looked.path)]
    for command in (["crops"], ["train-fusion", "--fusion", "late"]):
        done = CliRunner().invoke(main, [*command, "--boxes", str(table), *options])
        assert done.exit_code == 0, done.output
    table.unlink()
    evaluate.run(looked.config, looked.path)
    assert pd.read_csv(looked.path / "results.csv").experiment.tolist() == ["base", "late-own-source"]
    experiment = predict.Experiment(looked.path, "late-own-source", device="cpu")
    arguments = [looked.data / "83654.mp4"], tmp_path / "out", WindowRule("as-evaluated"), Report(), predict.Workers()
    with pytest.raises(StageError, match=r"late-own-source looks where a table says: .*--boxes FILE\.csv"):
        predict.run(experiment, *arguments)
    table = own_table(tmp_path / "other.csv", "83654,0,9,20,4,8,8,1")
    predict.run(predict.Experiment(looked.path, "late-own-source", (), "cpu", table), *arguments)
    np.testing.assert_allclose(
        read_video(tmp_path / "out", "83654").scores, evaluated(looked, "late-own-source")["83654"], rtol=1e-5
    )
