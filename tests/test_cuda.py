"""Every stage that computes, on a GPU and on the CPU: the same numbers within float32's tolerance. Never run so far.

`prepare` and `crops` use no device: they decode, cut and encode on the CPU whatever the config says.
"""

import csv

import numpy as np
import pytest
import torch

from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.stores import open_run
from pipeline.stages import crops, evaluate, saliency, train_base, train_fusion
from tests.helpers.tiny_data import change

pytestmark = [
    pytest.mark.needs_cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
TOLERANCE = 1e-2  # cuDNN may take TensorFloat-32 for convolutions, with ten bits of mantissa


def _on_gpu(config, **sections):
    return change(config, device="cuda", **sections)


def _state(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)


def _close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name].float(), b[name].float(), rtol=0.02, atol=0.02, msg=name)


def test_train_base(tiny_run, trained):
    """Two epochs from the same start."""
    folder = base_folder(open_folder(trained.path, trained.config), trained.config)
    expected = _state(folder)
    for file in folder.iterdir():
        file.unlink()
    _close(_state(train_base.run(_on_gpu(trained.config), trained.path).path), expected)


@pytest.mark.parametrize("workers", [1, 4])
def test_saliency(tiny_run, trained, workers):
    """Logits and maps; boxes wherever the maps leave no doubt; decoded by one thread or by several."""
    saliency.run(_on_gpu(trained.config, workers=workers), trained.path)
    found, wanted = (open_run(run.path, run.config) for run in (trained, tiny_run))
    for part in wanted.run.parts:
        logits = [one.base(part).read_all("logits") for one in (found, wanted)]
        np.testing.assert_allclose(*logits, rtol=TOLERANCE, atol=TOLERANCE)
        codes = [one.maps(part, "entropy").read_all("codes") for one in (found, wanted)]
        apart = np.linalg.norm(np.subtract(*codes, dtype=float)) / np.linalg.norm(codes[1].astype(float))
        assert apart < 0.01
        boxes = [one.boxes(part, "entropy").read_all("box_input") for one in (found, wanted)]
        assert (boxes[0] == boxes[1]).all(1).mean() >= 0.8


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_train_fusion(tiny_run, looked, fusion):
    """From caches that the CPU has filled."""
    crops.run(looked.config, looked.path, ("entropy",))
    expected = _state(next((tiny_run.path / "models").glob(f"{fusion}-entropy-source-*")))
    _close(_state(train_fusion.run(_on_gpu(looked.config), looked.path, fusion).path), expected)


def test_evaluate(tiny_run, tiny_copy):
    """The same scores for the same weights."""
    for path in (*tiny_copy.path.glob("results*/*"), tiny_copy.path / "results.csv"):
        path.unlink()
    evaluate.run(_on_gpu(tiny_copy.config), tiny_copy.path)
    tables = [list(csv.DictReader((run.path / "results.csv").open())) for run in (tiny_run, tiny_copy)]
    assert len(tables[0]) == len(tables[1]) == 3
    for cpu, gpu in zip(*tables, strict=True):
        assert float(cpu["map"]) == pytest.approx(float(gpu["map"]), abs=1.0) and cpu["key"] == gpu["key"]


def test_bfloat16(trained):
    outcome = saliency.run(_on_gpu(trained.config, saliency={"precision": "bfloat16"}), trained.path)
    assert "sampled boxes as in float32" in outcome.summary
