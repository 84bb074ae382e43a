"""train-looker: boxes without a gradient in all stages, in predictions, and refusals."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cache
from cache.sealed import read_record
from cache.upkeep.verify import verify
from models.frozen.fold import fold
from models.i3d import as_input
from models.looker import FINER, block_features, cell_shares
from pipeline.errors import StageError
from pipeline.predict import export
from pipeline.predict import run as predict
from pipeline.predict.passes import WindowRule
from pipeline.predict.tables import Report
from pipeline.recipes.experiments import Row, run_rows
from pipeline.run.looker_weights import load_looker, looker_facts
from pipeline.run.networks import build_base
from pipeline.run.predictions import read_video
from pipeline.run.stores import open_run
from pipeline.stages import saliency, train_looker, train_online
from tests.conftest import TinyRun, _copy
from tests.helpers.tiny_data import VIDEOS, change
from tests.predict.test_predict import evaluated

NAME = "late-looker-source"
ROW = Row("looker", "late", "looker", "looker", "source")


@pytest.fixture(scope="module")
def taught(tiny_run, tmp_path_factory):
    """The finished run with a looker, maps and boxes of it, and late fusion on these, evaluated."""
    run = _copy(tiny_run, tmp_path_factory.mktemp("taught"))
    run_rows(run.config, run.path, [ROW])
    return TinyRun(run.data, run.path, change(run.config, saliency={"objectives": ("looker",)}))


def test_stage_1_takes_no_gradient_and_gives_the_same_maps_again(taught, monkeypatch):
    stores = open_run(taught.path, taught.config)
    (part,) = stores.run.parts_of("test")
    store = stores.maps(part, "looker")
    codes = store.read_all("codes")
    assert (codes.max((1, 2)) == 65535).all() and len(np.unique(codes.reshape(len(codes), -1), axis=0)) > 1
    record = read_record(stores.looker_folder / "looker.json")
    assert store.product.settings["looker"] == record["weights"] and record["num_clips"] == 8  # 4 videos x 2
    shutil.rmtree(store.product.path)
    monkeypatch.setattr(torch.autograd, "grad", None)
    saliency.run(taught.config, taught.path)
    assert np.array_equal(open_run(taught.path, taught.config).maps(part, "looker").read_all("codes"), codes)
    assert not [one for one in verify(taught.path) if one.kind != "foreign"]


def test_features_and_maps_are_those_of_the_same_clip(taught):
    """Against a pass of Base over what stage 2 stored of each clip."""
    stores, run = open_run(taught.path, taught.config), cache.open(taught.path, boxes="entropy")
    features, shares, failed = train_looker._examples(stores, torch.device("cpu"))
    (part,), (test,) = stores.run.parts_of("train"), stores.run.parts_of("test")
    codes = torch.from_numpy(stores.maps(part, "entropy").read_all("codes").astype(np.float32))
    network, looker = fold(build_base(stores.base_weights)), load_looker(stores.looker_folder)
    by_hand = torch.cat([of_clip(network, run.context(part.offset + row)) for row in range(part.num_rows)])
    wanted = cell_shares(codes, (FINER * by_hand.shape[2], FINER * by_hand.shape[3]))
    assert not failed and features.dtype == torch.float16 and len(features) == part.num_rows
    nearest = (features.float()[:, None] - by_hand[None]).abs().amax((2, 3, 4)).argmin(1)  # units are in any order
    assert sorted(nearest.tolist()) == list(range(part.num_rows))
    torch.testing.assert_close(features.float(), by_hand[nearest], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(shares, wanted[nearest])
    found = looker.maps(of_clip(network, run.context(test.offset)), (28, 28))[0].numpy()
    stored = stores.maps(test, "looker").read("codes", 0).astype(float)
    np.testing.assert_allclose(stored / 65535, found / found.max(), atol=1e-3)


def of_clip(network, context):
    """The features of a clip as stage 2 stored it, uint8 (T, H, W, 3)."""
    with torch.no_grad(), block_features(network) as features:
        network(as_input(torch.from_numpy(context[None]), torch.device("cpu")))
        return features()


def test_units_are_an_even_share_and_hold_no_skipped_video(monkeypatch):
    """Of units 0 to 8, two rows each, unit 3 holds a skipped video; room for 6 of 16 clips takes every third."""

    def part(name):
        return SimpleNamespace(name=name, unit_rows=lambda unit: range(2 * unit, 2 * unit + 2))

    parts = {"train": [part("a")], "test": [part("b")]}
    product = SimpleNamespace(done_units=lambda: [8, 7, 6, 5, 4, 3, 2, 1, 0], skips=lambda: {3: []})
    run = SimpleNamespace(parts_of=lambda split: parts[split], path="here")
    stores = SimpleNamespace(run=run, maps=lambda part, teacher: SimpleNamespace(product=product))
    for room, expected in ((16, [0, 1, 2, 4, 5, 6, 7, 8]), (15, [0, 2, 5, 7]), (6, [0, 4, 7])):
        monkeypatch.setattr(train_looker, "MOST_BYTES", 10 * room)
        assert train_looker._units(stores, 10) == [(parts["train"][0], unit) for unit in expected]


def test_what_makes_another_looker():
    part = SimpleNamespace(name="a", rows_sha256="plan")
    run, maps = SimpleNamespace(parts_of=lambda split: [part] if split == "train" else []), {"a": {"side": 1}}
    facts = looker_facts(run, "base", 0, maps)
    assert facts == looker_facts(run, "base", 0, {"a": {"side": 1, "time_segments": 2}})
    others = [("other", 0, maps), ("base", 1, maps), ("base", 0, {"a": {"side": 2}})]
    found = [facts, *(looker_facts(run, *other) for other in others)]
    part.rows_sha256 = "another"
    found.append(looker_facts(run, "base", 0, maps))
    assert len({json.dumps(one) for one in found}) == 5


def test_a_video_that_cannot_be_read_is_told(taught, tmp_path):
    run, videos = _copy(taught, tmp_path / "run"), shutil.copytree(taught.data, tmp_path / "videos")
    shutil.rmtree(next(run.path.glob("models/looker-*")))
    gone = next(video_id for video_id in VIDEOS if VIDEOS[video_id][0] == "train")
    (videos / f"{gone}.mp4").unlink()
    outcome = train_looker.run(change(run.config, data={"videos": str(videos)}), run.path)
    assert outcome.num_skipped == 1 and f"left out: {gone}: VideoMissing" in outcome.left_out
    (record,) = run.path.glob("models/looker-*/looker.json")
    assert read_record(record)["num_clips"] == 6  # 3 videos x 2


def test_it_is_trained_once_and_belongs_to_its_base_and_seed(taught):
    assert train_looker.run(taught.config, taught.path).summary == "already trained"
    with pytest.raises(StageError, match=r"looker-[0-9a-f]+: no trained looker for this config"):
        saliency.run(change(taught.config, saliency={"method": "grad_cam"}), taught.path)


def test_predictions_equal_the_evaluation(taught, tmp_path):
    places = [taught.data / f"{video_id}.mp4" for video_id in VIDEOS if VIDEOS[video_id][0] == "test"]
    experiment = predict.Experiment(taught.path, NAME, device="cpu")
    predict.run(experiment, places, tmp_path, WindowRule("as-evaluated"), Report(), predict.Workers())
    stores = open_run(taught.path, taught.config)
    (part,) = stores.run.parts_of("test")
    for video_id, scores in evaluated(taught, NAME).items():
        found = read_video(tmp_path, video_id)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
        rows = np.flatnonzero(part.rows.video_id == video_id)
        stored = stores.boxes(part, "looker").read_rows("box_source", rows)
        assert found.boxes[["top", "left", "height", "width"]].to_numpy().tolist() == stored.tolist()


def test_what_has_no_place_for_it_says_so(taught, tiny_run, tmp_path):
    with pytest.raises(StageError, match=r"boxes looker are of a head that learnt stored maps"):
        train_online.run(taught.config, taught.path, "late", "looker")
    with pytest.raises(StageError, match=r"export has no place for the looker"):
        export.run(taught.path, tmp_path / "out", NAME)
    untaught = change(tiny_run.config, saliency={"objectives": ("max_logit",)})
    with pytest.raises(StageError, match=r"run train-looker first, after saliency"):
        saliency.run(change(untaught, saliency={"objectives": ("looker",)}), tiny_run.path)
