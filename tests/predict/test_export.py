"""An exported experiment gives the run's bits, needs nothing of it, and is refused where it is not what was written."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from cache.errors import DamagedError
from pipeline import focus
from pipeline.cli.main import main
from pipeline.errors import StageError
from pipeline.predict.export import load_exported, run
from pipeline.predict.load import load_model
from tests.helpers.tiny_data import change, run_to_crops
from tests.predict.test_predict import EXPERIMENTS

NETWORK = """import torch


class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 4, 3, stride=2)
        self.head = torch.nn.Linear(4, num_classes)

    def forward(self, video):
        x = torch.relu(self.conv(video.permute(0, 4, 1, 2, 3)))
        return self.head(x.mean((2, 3, 4)))


def small(num_classes):
    return Net(num_classes)
"""


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_gives_the_bits_of_the_run_and_does_not_need_it(tiny_copy, tmp_path, experiment):
    video = tiny_copy.data / "83654.mp4"
    (before,) = focus.load(tiny_copy.path, experiment, "cpu").predict(video)
    arguments = ["export", "--run", tiny_copy.path, "--experiment", experiment, "--out", tmp_path / "out"]
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    shutil.rmtree(tiny_copy.path)
    shutil.move(tmp_path / "out", tmp_path / "there")
    model = focus.load(tmp_path / "there", device="cpu")
    (after,) = model.predict(video)
    pd.testing.assert_frame_equal(before.table, after.table)
    assert model.experiment == experiment and (tmp_path / "there/README.md").read_text().startswith(f"# {experiment}\n")
    with pytest.raises(StageError, match=f"is the experiment {experiment}, not other"):
        focus.load(tmp_path / "there", "other")
    with pytest.raises(StageError, match="leave --set seed=1 out"):
        focus.load(tmp_path / "there", overrides=["seed=1"])


def test_changed_files_and_strange_folders_are_refused(tiny_run, tmp_path):
    run(tiny_run.path, tmp_path / "out", "base")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["clips"]["num_frames"] == 4 and config["classes"] == ["red thing", "green thing", "blue thing"]
    assert load_model(tmp_path / "out").settings.clips.decoding == "player"
    del config["clips"]["decoding"]  # as one that was exported before there was the setting
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    assert load_model(tmp_path / "out").settings.clips.decoding == "plain"
    (tmp_path / "out/config.json").write_text(json.dumps(config | {"base": "0" * 64}))
    with pytest.raises(DamagedError, match="base has weights"):
        load_model(tmp_path / "out")
    (tmp_path / "out/config.json").write_text(json.dumps({"experiment": "base"}))
    with pytest.raises(DamagedError, match="export the model again"):
        load_model(tmp_path / "out")
    (tmp_path / "out/my notes").write_text("")
    with pytest.raises(StageError, match="holds other files, such as my notes"):
        run(tiny_run.path, tmp_path / "out", "base")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "network/config.json"])
def test_a_model_that_export_did_not_write_is_left_alone(tiny_run, tmp_path, name):
    """Such as a folder of a transformer, whose files have the same names; an export of its own is replaced."""
    theirs = tmp_path / "theirs" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(StageError, match=f"{name} is there already, and export did not write it; use another --out"):
        run(tiny_run.path, tmp_path / "theirs", "base")
    assert theirs.read_text() == "mine" and [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]


def test_an_export_is_replaced_by_the_next(tiny_run, tmp_path):
    run(tiny_run.path, tmp_path / "out", "base")
    before = (tmp_path / "out/model.safetensors").read_bytes()
    (tmp_path / "out/config.json").unlink()  # as a killed export leaves it
    run(tiny_run.path, tmp_path / "out", "base")
    assert (tmp_path / "out/model.safetensors").read_bytes() == before and load_exported(tmp_path / "out")[2] is None


def test_a_network_of_ones_own_travels_with_it(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    config = change(tiny_run.config, base={"network": "net.py:small"})
    run_to_crops(config, tmp_path / "run")
    run(tmp_path / "run", tmp_path / "out", None)
    (tmp_path / "net.py").unlink()
    (found,) = focus.load(tmp_path / "out", device="cpu").predict(tiny_run.data / "T0002.mp4")
    assert found.scores.between(0, 1).all()


@pytest.mark.slow
def test_onnx_equals_torch(tiny_run, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    run(tiny_run.path, tmp_path, "concat-entropy-source", onnx=True)
    _, base, second = load_exported(tmp_path)
    for name, network, count in (("base", base, 4), ("second", second, 8)):
        video = torch.rand(3, count, 28, 28, 3)  # another number of clips than was traced
        session = runtime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"video": video.numpy()})
        with torch.no_grad():
            wanted = network.eval()(video).numpy()
        assert np.abs(logits - wanted).max() <= 1e-4 and wanted.std() > 1e-3
    assert "the cutting and the fusion are not in them" in (tmp_path / "README.md").read_text()
