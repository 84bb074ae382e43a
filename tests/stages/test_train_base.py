"""train-base: where weights come from, and what is refused."""

import json

import pytest
import torch
import torchvision

from cache.errors import StaleCacheError
from models.backbones import build
from models.checkpoint import WeightsError, read_state, to_bytes
from pipeline.config_file import load
from pipeline.errors import ConfigError, StageError
from pipeline.run.folder import open_folder
from pipeline.stages import prepare, train_base
from pipeline.training.base_clips import BaseClips
from pipeline.training.loop import fit
from tests.helpers.tiny_data import CLASSES, change, make_data, tiny_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two training videos, prepared."""
    root = tmp_path_factory.mktemp("base")
    config = tiny_config(make_data(root / "data", ("07E49", "150E6", "T0002")))
    prepare.run(config, root / "run")
    return config, root / "run"


def _save(path, state):
    path.write_bytes(to_bytes({"state_dict": {f"module.{name}": value for name, value in state.items()}}))
    return str(path)


def test_without_epochs_the_given_weights_are_base(prepared, tmp_path):
    config, run_dir = prepared
    state = build("small_i3d", 3).state_dict()
    config = change(config, base={"epochs": 0, "init": _save(tmp_path / "w.pt", state)})
    path = train_base.run(config, run_dir).path
    found = read_state(path / "weights.pt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert json.loads((path / "base.json").read_text())["out_frames"] == 2


def test_a_head_of_another_size_needs_new_head(prepared, tmp_path):
    config, run_dir = prepared
    state = build("small_i3d", 7).state_dict()
    config = change(config, base={"epochs": 0, "init": _save(tmp_path / "w.pt", state)})
    with pytest.raises(WeightsError, match="--new-head"):
        train_base.run(config, run_dir)
    outcome = train_base.run(change(config, base={"new_head": True}), run_dir)
    assert "new: fc.bias, fc.weight" in outcome.summary
    found = read_state(outcome.path / "weights.pt")
    assert torch.equal(found["conv1.weight"], state["conv1.weight"])
    assert found["fc.bias"].shape == (3,)


def test_imagenet_weights_are_inflated(prepared, tmp_path):
    config, _ = prepared
    state = torchvision.models.resnet50(weights=None).state_dict()
    base = {"network": "resnet50_i3d", "epochs": 0, "init": str(tmp_path / "w.pt"), "inflate": True}
    (tmp_path / "w.pt").write_bytes(to_bytes(state))
    config = change(config, base=base, clips={"num_frames": 16})
    prepare.run(config, tmp_path / "run")
    found = read_state(train_base.run(config, tmp_path / "run").path / "weights.pt")
    assert found["conv1.weight"].shape == (64, 3, 5, 7, 7)
    assert torch.allclose(found["conv1.weight"].sum(2), state["conv1.weight"], atol=1e-6)
    assert found["fc.weight"].shape == (3, 2048, 1, 1, 1)


def test_inflation_is_for_resnet50_only(tmp_path):
    (tmp_path / "c.toml").write_text('[base]\nnetwork = "small_i3d"\ninflate = true\n')
    with pytest.raises(ConfigError, match=r"base\.inflate"):
        load(str(tmp_path / "c.toml"))


def test_nothing_to_start_from_is_refused(prepared):
    config, run_dir = prepared
    with pytest.raises(StageError, match="nothing to start from"):
        train_base.run(change(config, base={"epochs": 0}), run_dir)


def test_in_memory_or_decoded_the_clips_are_the_same(prepared):
    config, run_dir = prepared
    decoded = BaseClips(open_folder(run_dir, config), config)
    held = BaseClips(open_folder(run_dir, config), change(config, base={"in_memory": True}))
    for epoch in range(3):
        for ours, theirs in zip(held.load(epoch, [1, 0]), decoded.load(epoch, [1, 0]), strict=True):
            assert torch.equal(ours, theirs)
    first, second = (decoded.load(epoch, [0, 1])[0] for epoch in (0, 1))
    assert not torch.equal(first, second)  # new augmentations every epoch


def test_clips_that_the_network_cannot_take_are_refused(prepared):
    config, run_dir = prepared
    words = r"resnet50_i3d cannot take clips of clips.num_frames = 4 at clips.input_side = 28: .* too short"
    with pytest.raises(StageError, match=words):
        train_base.run(change(config, base={"network": "resnet50_i3d"}), run_dir)


def test_labels_corrected_in_mid_training_are_not_mixed_in(own_videos, tmp_path, monkeypatch):
    """The checkpoints belong to the labels and videos that they saw."""
    prepare.run(own_videos.config, tmp_path / "again")
    monkeypatch.setattr(train_base, "fit", lambda *args: fit(*args, until=1))
    monkeypatch.setattr(train_base, "write_network", None)
    with pytest.raises(TypeError):  # stopped after an epoch
        train_base.run(own_videos.config, tmp_path / "again")
    monkeypatch.undo()
    old, new = (f"07E49,train,0,0.9,{name}" for name in CLASSES[:2])
    (own_videos.data / "other.csv").write_text((own_videos.data / "table.csv").read_text().replace(old, new))
    other = change(own_videos.config, data={"annotations": (str(own_videos.data / "other.csv"),)})
    prepare.run(other, tmp_path / "again")
    with pytest.raises(StaleCacheError, match="were trained on other labels or videos"):
        train_base.run(other, tmp_path / "again")
    prepare.run(own_videos.config, tmp_path / "again")
    assert train_base.run(own_videos.config, tmp_path / "again").path.joinpath("base.json").exists()
