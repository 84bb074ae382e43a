"""The configs for networks and videos of one's own, own-r2plus1d and own-videomae: each trains one step."""

import pandas as pd
import pytest
import torch

from models.backbones import build
from pipeline.config_file import load
from pipeline.errors import StageError
from pipeline.stages import prepare, train_base
from pipeline.training import loop
from pipeline.training.checkpoints import newest_checkpoint
from tests.helpers.tiny_data import change


def tiny(name, run, **base):
    """A config of the project for tiny videos: one batch of the four training videos, in one epoch."""
    once = {"epochs": 1, "warmup_epochs": 0, "batch_size": 4, "accumulate": 1, "loader_workers": 0}
    config = change(load(name), data=run.config.data, clips=run.config.clips, saliency={"box_side": 16}, device="cpu")
    return change(config, workers=1, base=once | base)


def test_own_r2plus1d(tiny_run, tmp_path, monkeypatch):
    torch.save(build("r2plus1d_18", 400).state_dict(), tmp_path / "kinetics.pth")
    config, made = tiny("own-r2plus1d", tiny_run, init=str(tmp_path / "kinetics.pth")), []
    monkeypatch.setattr(loop, "save", lambda folder, network, optimiser, *_: made.append(optimiser))  # of 380 MB
    prepare.run(config, tmp_path / "run")
    outcome = train_base.run(config, tmp_path / "run")
    assert "new: fc.bias, fc.weight" in outcome.summary
    group, spared = made[0].param_groups
    assert all(value["step"] == 1 for value in made[0].state.values()) and len(made[0].state) > 100
    assert (group["betas"], group["weight_decay"], spared["weight_decay"]) == ((0.9, 0.999), 0.05, 0.0)
    assert pd.read_csv(outcome.path / "metrics.csv").learning_rate.tolist() == [1e-4]  # the first step of a cosine


def test_own_videomae(tiny_run, tmp_path, monkeypatch):
    """With a small VideoMAE of transformers: its blocks are found, and a wrong prefix is named."""
    from tests.helpers.tiny_folders import save_folder  # skips without transformers

    assert load("own-videomae").base.network.startswith("hf:")
    own = {"network": f"hf:{save_folder(tmp_path / 'mae')}"}
    config = tiny("own-videomae", tiny_run, **own)
    prepare.run(config, tmp_path / "run")
    outcome = train_base.run(config, tmp_path / "run")
    rates = {group["lr"] for group in newest_checkpoint(outcome.path)["optimiser"]["param_groups"]}
    assert sorted(rates) == pytest.approx([6.25e-5 * 0.75**depth for depth in (3, 2, 1, 0)])
    monkeypatch.setattr("pipeline.training.base_clips.decode_frames", None)  # refused before a video is decoded
    for wrong, words in (
        (
            {"freeze": ("videomae.encoder.layer.7",)},
            "'videomae.encoder.layer.7' or in it; near are videomae.encoder.layer",
        ),
        ({"network": "small_i3d", "layer_decay": 0.75}, "no blocks of a transformer"),
    ):
        with pytest.raises(StageError, match=words):
            train_base.run(tiny("own-videomae", tiny_run, **own | {"in_memory": True} | wrong), tmp_path / "run")


@pytest.mark.parametrize("name", ["own-videomae", "own-r2plus1d"])
def test_the_rate_is_scaled_as_the_comment_says(name):
    config = load(name)
    for recipe in (config.base, config.fusion):
        assert (recipe.optimizer, recipe.schedule, recipe.momentum, recipe.weight_decay) == (
            "adamw",
            "cosine",
            0.9,
            0.05,
        )
        assert recipe.batch_size * recipe.accumulate == 32
        assert name != "own-videomae" or recipe.learning_rate == pytest.approx(5e-4 * 32 / 256)
