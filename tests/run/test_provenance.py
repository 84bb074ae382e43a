"""Every trained network keeps under what it was trained; curves for TensorBoard are there for whoever asks."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from pipeline.errors import StageError
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.provenance import git_state
from pipeline.stages import train_base
from tests.helpers.tiny_data import change

FOLDERS = ("base-*", "late-*", "concat-*")


def test_every_network_has_its_provenance(tiny_run):
    for pattern in FOLDERS:
        (folder,) = tiny_run.path.glob(f"models/{pattern}")
        facts = json.loads((folder / "provenance.json").read_text())
        record = json.loads((folder / ("base.json" if pattern == "base-*" else "model.json")).read_text())
        assert facts["weights"] == record["weights"]
        assert facts["seeds"] == {"seed": 0, "plan_seed": 0, "data_seed": 0}
        assert facts["config"]["clips"]["num_frames"] == tiny_run.config.clips.num_frames
        assert facts["config"]["fusion"]["epochs"] == tiny_run.config.fusion.epochs
        assert set(facts["versions"]) >= {"python", "torch", "numpy", "av", "zarr", "h5py"}
        assert all(facts["versions"].values())
        assert facts["processes"] == 1 and facts["device"].startswith("cpu") and facts["init_sha256"] is None


def test_the_hash_of_the_weights_it_started_from(trained, tmp_path):
    (weights,) = trained.path.glob("models/base-*/weights.pt")
    config = change(trained.config, base={"init": str(weights), "epochs": 0})
    folder = train_base.run(config, trained.path).path
    facts = json.loads((folder / "provenance.json").read_text())
    sha256 = subprocess.run(["sha256sum", weights], capture_output=True, text=True, check=True).stdout.split()[0]
    assert facts["init_sha256"] == sha256


def test_git_state(tmp_path):
    assert git_state(tmp_path) is None  # no checkout
    for command in (
        ("init", "-q"),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "first"),
    ):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["changed"] == []
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file.py").write_text("1")
    assert git_state(tmp_path) == clean | {"changed": ["inner/"]}
    assert git_state(tmp_path / "inner") is None  # inside somebody else's project


def test_curves_go_on_where_a_training_does_and_change_no_key(trained):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = change(trained.config, seed=5, base={"tensorboard": True})
    plain = change(trained.config, seed=5)
    folder = base_folder(open_folder(trained.path, plain), plain)
    assert base_folder(open_folder(trained.path, config), config) == folder
    # an epoch without curves, then one with: the second run goes on
    train_base.run(plain, trained.path)
    (folder / "base.json").unlink()
    last = sorted(folder.glob("checkpoint-*.pt"))[-1]
    last.unlink()
    assert not (folder / "tensorboard").exists()
    train_base.run(config, trained.path)
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert [event.step for event in events.Scalars("epoch/loss")] == [1] and len(metrics) == 2
    assert events.Scalars("epoch/loss")[0].value == pytest.approx(metrics.loss[1])
    assert events.Scalars("epoch/waiting_share")[0].value == pytest.approx(metrics.waiting_share[1], abs=1e-3)
    assert [event.step for event in events.Scalars("step/loss")] == [3, 4]  # 2 steps an epoch


def test_without_tensorboard_it_is_said_what_to_install(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(StageError, match=r"pip install -e \.\[tensorboard\]"):
        train_base.run(change(trained.config, seed=6, base={"tensorboard": True}), trained.path)
