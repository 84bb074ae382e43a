"""Caches that follow the network: whose boxes an epoch sees, what stays as it was, kills, and who evaluates."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models import objectives
from models.box_search import quantise
from models.frozen.fold import fold
from models.i3d import as_input
from models.objectives import saliency_maps
from pipeline.data.box_policies import find_boxes
from pipeline.data.clips import input_clips
from pipeline.errors import StageError
from pipeline.recipes import refresh
from pipeline.run import generations
from pipeline.run.fusion_models import Variant
from pipeline.run.networks import build_base
from pipeline.run.stores import boxes_of, open_run
from pipeline.stages import evaluate, train_online
from pipeline.training.cached_volumes import CachedVolumes, Place
from pipeline.training.checkpoints import newest_checkpoint
from tests.helpers.killed import killed_at
from tests.helpers.tiny_data import caches, change, make_data, run_to_crops, tiny_config


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A run up to crops with one stored augmentation, and rates at which boxes move."""
    root = tmp_path_factory.mktemp("refresh")
    config = tiny_config(
        make_data(root / "data"), clips={"aug_seeds": 1}, fusion={"epochs": 4, "learning_rate": 0.2, "drop_epochs": ()}
    )
    run_to_crops(config, root / "run")
    return config, root / "run"


@pytest.fixture
def run_of(ready, tmp_path):
    config, path = ready
    shutil.copytree(path, tmp_path / "run")
    return config, tmp_path / "run"


def looked_for(stores, weights, split):
    """box_input of every row of a split by a separate look of a network with these weights: int (rows, 4)."""
    network, config = build_base(stores.base_weights), stores.config
    network.load_state_dict(weights)
    part, found = stores.run.parts_of(split)[0], []
    for first in range(0, part.num_rows, part.rows_per_video):
        rows = list(range(first, first + part.rows_per_video))
        for row, clip, _ in input_clips(part, rows, Path(config.data.videos)):
            video = as_input(torch.from_numpy(clip[None]), torch.device("cpu"))
            _, maps = saliency_maps(fold(network), video, ["entropy"])
            codes, _ = quantise(maps["entropy"][0].numpy())
            box, _ = find_boxes(part.clip(row), "entropy", config.saliency, (config.clips.plan_seed, 0), codes)[0]
            found.append((box.top, box.left, box.height, box.width))
    return np.array(found)


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_boxes_are_those_of_the_epochs_own_checkpoint(run_of, fusion, monkeypatch):
    """N = 1, S = 1: before every epoch the generation equals a separate look; Base's caches do not move."""
    config, path = run_of
    stores, before = open_run(path, config), caches(path)
    seen, most, real = [], [], refresh.fit

    def fit(network, data, training, folder, seed, until):
        epoch = until - 1
        content = newest_checkpoint(folder)
        most.append(len(list(folder.glob("*generation-*"))))
        batch = data.load(epoch, [3, 0, 1, 2])
        if epoch:
            assert (content["epoch"], content["step"]) == (epoch, 0)
            there = generations.generation_in(generations.numbered(folder, epoch), config, "entropy").stores()
            stored = boxes_of(there, there.run.parts[0], "entropy")
            assert np.array_equal(stored, looked_for(stores, content["network"], "train"))
            new = CachedVolumes(there, "train", Variant())
            assert torch.equal(batch[0][1], new.focused(next(iter(new.places().values())))[0])
        else:
            stored = boxes_of(stores, stores.run.parts[0], "entropy")
        old = CachedVolumes(stores, "train", Variant(fusion))
        expected = old.rest([list(old.places().values())[number][0] for number in (3, 0, 1, 2)])
        for left, right in zip(batch[1:], expected, strict=True):
            assert torch.equal(left, right)
        seen.append(stored)
        real(network, data, training, folder, seed, until)

    monkeypatch.setattr(refresh, "fit", fit)
    outcome = refresh.run(config, path, fusion, "entropy", "source", 1)
    assert len(seen) == 4 and max(most) <= 2
    assert len({boxes.tobytes() for boxes in seen}) > 1  # the network has moved its boxes
    assert caches(path) == before
    rows = list(csv.DictReader((outcome.path / "generations.csv").open()))
    assert [(row["generation"], row["epoch"]) for row in rows] == [("1", "1"), ("2", "2"), ("3", "3")]
    assert len({row["weights"] for row in rows}) == 3
    assert [folder.name for folder in outcome.path.glob("*generation-*")] == ["generation-eval"]


def test_evaluation_looks_with_the_last_weights(run_of, monkeypatch):
    """Refreshed, and online from the current network: boxes of the evaluation clips are the trained model's own."""
    config, path = run_of
    stores = open_run(path, config)
    refreshed = refresh.run(config, path, "late", "entropy", "source", 3).path
    online = train_online.run(config, path, "concat", saliency_from="current").path
    with pytest.raises(StageError, match="has no boxes of the evaluation videos yet"):
        evaluate.run_model(config, path, online)
    refresh.evaluation_boxes(stores, online)
    asked, real = [], CachedVolumes.focused

    def focused(self, places):
        asked.append(self.focused_stores[0].product.path.parents[1])
        return real(self, places)

    monkeypatch.setattr(CachedVolumes, "focused", focused)
    by_base = looked_for(stores, build_base(stores.base_weights).state_dict(), "test")
    for folder in (refreshed, online):
        there = generations.evaluation_of(folder, config, "entropy").stores()
        weights = torch.load(folder / "weights.pt", weights_only=True)
        stored = boxes_of(there, there.run.parts[0], "entropy")
        assert np.array_equal(stored, looked_for(stores, weights, "test"))
        assert not np.array_equal(stored, by_base)
        asked.clear()
        result = evaluate.run_model(config, path, folder)
        assert set(asked) == {there.run.path}
        assert json.loads(result.read_text())["experiment"] == json.loads((folder / "model.json").read_text())["name"]


KILLS = [
    ("pipeline.recipes.refresh", "fit", 2),  # generation 1 is complete, epoch 1 not begun
    ("pipeline.recipes.refresh", "fit", 3),
    ("models.objectives", "input_saliency", 3),  # within generation 1 or 2
    ("models.objectives", "input_saliency", 5),
    ("pipeline.stages.crops", "encode_volume", 40),
    ("pipeline.training.loop", "save", 3),  # the epoch is over, its checkpoint not written
    ("pipeline.run.generations", "drop_before", 4),
    ("pipeline.recipes.refresh", "evaluation_boxes", 1),
    ("pipeline.recipes.refresh", "write_model", 1),
]


def test_killed_anywhere_the_same_command_goes_on(run_of, tmp_path):
    """Same weights, same generations as without a kill; never more than two generations on the disk."""
    config, path = run_of
    shutil.copytree(path, tmp_path / "whole")
    whole = refresh.run(config, tmp_path / "whole", "late", "entropy", "source", 1).path
    kills = 0
    for number, (owner, name, count) in enumerate(KILLS):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(path, copy)
        kills += killed_at(owner, name, count, lambda: refresh.run(config, copy, every=1))  # noqa: B023
        assert len(list(copy.glob("models/late-*/*generation-*"))) <= 2
        again = refresh.run(config, copy, every=1).path
        for file in ("model.json", "generations.csv"):
            assert (again / file).read_text() == (whole / file).read_text(), (owner, name)
        assert [folder.name for folder in again.glob("*generation-*")] == ["generation-eval"]
    assert kills == len(KILLS)


def test_several_augmentations_only_the_wanted_are_looked_at(tiny_copy, monkeypatch):
    """N = 2 of S = 2 looks at both; N = 1 at the one of its epoch."""
    looked = []
    real = objectives.input_saliency
    monkeypatch.setattr(objectives, "input_saliency", lambda *args: looked.append(len(args[1])) or real(*args))
    config = change(tiny_copy.config, fusion={"epochs": 3})
    refresh.run(config, tiny_copy.path, every=1)
    assert sum(looked) == 4 + 4 + 6  # two generations of four videos, six evaluation clips
    looked.clear()
    refresh.run(config, tiny_copy.path, every=2)
    assert sum(looked) == 4 + 6  # epoch 2 alone
    again = refresh.run(config, tiny_copy.path, every=2)
    assert sum(looked) == 10 and again.path.name.startswith("late-entropy-source-refresh2-")


def test_every_epoch_sees_its_own_augmentation(tiny_copy, monkeypatch):
    """N = 2, S = 2: epoch 3 reads augmentation 1 of generation 1, beside Base's logits of the same rows."""
    loads, real = [], refresh.fit

    def fit(network, data, training, folder, seed, until):
        if until == 4:
            stores = open_run(tiny_copy.path, tiny_copy.config)
            (made,) = tiny_copy.path.glob("models/late-*/generation-001")
            there = generations.generation_in(made, tiny_copy.config, "entropy").stores()
            new, old = CachedVolumes(there, "train", Variant()), CachedVolumes(stores, "train", Variant())
            for epoch in (2, 3):
                parts = [one.run.parts[0] for one in (there, stores)]
                rows, same = (
                    [row for row, aug in enumerate(part.rows.aug_index) if aug == epoch % 2] for part in parts
                )
                assert rows == same
                focus, *others = data.load(epoch, [0, 1, 2, 3])
                places = [Place(0, row) for row in rows]
                assert torch.equal(focus, new.focused(places))
                assert all(torch.equal(left, right) for left, right in zip(others, old.rest(places), strict=True))
                loads.append(focus)
        real(network, data, training, folder, seed, until)

    monkeypatch.setattr(refresh, "fit", fit)
    refresh.run(change(tiny_copy.config, fusion={"epochs": 4}), tiny_copy.path, every=2)
    assert len(loads) == 2 and not torch.equal(*loads)


def test_what_cannot_be_refreshed_is_said(tiny_run, monkeypatch):
    with pytest.raises(StageError, match="boxes center do not depend on a network"):
        refresh.run(tiny_run.config, tiny_run.path, "late", "center")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StageError, match="trains in one process"):
        refresh.run(tiny_run.config, tiny_run.path, "late")


def test_what_is_no_generation_is_not_dropped(tmp_path):
    """By number and not by the order of names; what somebody else put beside the model stays."""
    names = ["generation-000", "generation-001", "generation-002", "generation-1000", ".generation-003.tmp"]
    theirs = ["generation-000-notes", "generation-1", "generation-eval", ".generation-notes.tmp"]
    for name in (*names, *theirs):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    generations.drop_before(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"generation-002", "generation-1000", *theirs}
