"""Looks at what a box shows, through the stages: the same boxes from stage 1, on the fly and in predictions."""

import re

import numpy as np
import pytest
import torch

from pipeline.predict import run as predict
from pipeline.predict.passes import WindowRule
from pipeline.predict.tables import Report
from pipeline.report import page
from pipeline.run.fusion_models import Variant
from pipeline.run.predictions import read_video
from pipeline.run.stores import looks_of, open_run
from pipeline.stages import boxes, crops, saliency
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.online_clips import OnlineClips
from tests.conftest import TinyRun, _copy
from tests.helpers.tiny_data import VIDEOS, caches, change

THREE = {"looks": 3}
EDGES = ["top", "left", "height", "width"]


@pytest.fixture(scope="module")
def closer(tiny_run, tmp_path_factory):
    """The run with up to three looks a clip, and crops of the training clips; the summary of its stage 1."""
    run = _copy(tiny_run, tmp_path_factory.mktemp("closer"))
    config = change(run.config, saliency=THREE)
    outcome = saliency.run(config, run.path)
    crops.run(config, run.path, ("entropy",), splits=("train",))
    return TinyRun(run.data, run.path, config), outcome.summary


def test_stage_1_keeps_its_maps_and_says_where_looks_stopped(closer, tiny_run):
    run, summary = closer
    assert caches(run.path, "base", "maps") == caches(tiny_run.path, "base", "maps")
    assert summary.startswith("0 of 14 rows computed now")
    stores, one = open_run(run.path, run.config), open_run(run.path, tiny_run.config)
    counted = np.zeros(4, int)
    for part in stores.run.parts:
        looks = looks_of(stores, part, "entropy")
        counted += np.bincount(looks, minlength=4)
        tight, first = (each.boxes(part, "entropy").read_all("box_input") for each in (stores, one))
        assert (tight[looks == 1] == first[looks == 1]).all()
        assert (tight[:, :2] >= first[:, :2]).all() and (
            tight[:, :2] + tight[:, 2:] <= first[:, :2] + first[:, 2:]
        ).all()
        # 16 of 28 pixels of a box of 16: 9.1, rounded outwards, and then 5.7 or 6.3
        assert all({10, 11} >= set(box[2:].tolist()) for box in tight[looks == 2])
        assert all({6, 7, 8} >= set(box[2:].tolist()) for box in tight[looks == 3])
        assert stores.boxes_settings(part, "entropy") == one.boxes_settings(part, "entropy") | THREE
        for policy in ("random", "center"):
            assert stores.boxes_settings(part, policy) == one.boxes_settings(part, policy)
    numbers = [
        int(text) for text in re.search(r"entropy boxes by look, from 1: ([\d, ]+)", summary).group(1).split(", ")
    ]
    assert numbers == counted[1 : 1 + len(numbers)].tolist() and sum(numbers) == 14 and (counted[2:] > 0).any()


def test_the_report_says_which_look_found_the_boxes(closer, tmp_path):
    run, _ = closer
    stores = open_run(run.path, run.config)
    (part,) = stores.run.parts_of("test")
    counts = np.bincount(looks_of(stores, part, "entropy"))[1:]
    page.run(run.path, out=tmp_path / "page.html")
    said = ", ".join(f"look {number}: {count}" for number, count in enumerate(counts, 1))
    text = (tmp_path / "page.html").read_text()
    assert f">entropy-looks3: clips by the look that found their box: {said}.<" in text
    assert text.count("clips by the look") == 1 and counts.sum() == part.num_rows


def test_on_the_fly_cuts_what_the_caches_hold(closer):
    run, _ = closer
    stores, variant = open_run(run.path, run.config), Variant("concat", "entropy", "source")
    volumes = CachedVolumes(stores, "train", variant)
    cached = volumes.load([rows[1] for rows in volumes.places().values()])
    online = OnlineClips(stores.run, run.config, stores.base_weights, variant, "base", torch.device("cpu"))
    fresh = online.cut(None, online.load(1, [0, 1, 2, 3]))
    assert torch.equal(cached.focused, fresh.focused)
    assert variant.named(run.config.saliency) == "concat-entropy-looks3-source"


def test_predictions_look_as_stage_1_does(closer, tmp_path):
    run, _ = closer
    places = [run.data / f"{video_id}.mp4" for video_id in VIDEOS if VIDEOS[video_id][0] == "test"]
    experiment = predict.Experiment(run.path, "base", ("saliency.looks=3",), "cpu")
    predict.run(experiment, places, tmp_path, WindowRule("as-evaluated"), Report(), predict.Workers())
    stores = open_run(run.path, run.config)
    (part,) = stores.run.parts_of("test")
    for video_id in dict.fromkeys(part.rows.video_id):
        rows = np.flatnonzero(part.rows.video_id == video_id)
        stored = stores.boxes(part, "entropy").read_rows("box_source", rows)
        assert read_video(tmp_path, video_id).boxes[EDGES].to_numpy().tolist() == stored.tolist()


def test_a_video_that_cannot_be_read_any_more_is_left_out(own_videos, caplog):
    saliency.run(own_videos.config, own_videos.path, splits=("test",))
    (own_videos.data / "T0002.mp4").write_bytes(b"")
    stores = open_run(own_videos.path, change(own_videos.config, saliency=THREE))
    text = boxes.run_policy(stores, "entropy", ("test",))
    (part,) = stores.run.parts_of("test")
    assert "T0002 left out: VideoChanged" in caplog.text and text.startswith("entropy boxes by look, from 1: ")
    assert len(looks_of(stores, part, "entropy")) == 4 and (looks_of(stores, part, "entropy") > 0).all()
