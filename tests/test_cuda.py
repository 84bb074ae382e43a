"""Every stage that computes, on a GPU and on the CPU: the same numbers within float32's tolerance.

`prepare` and `crops` use no device: they decode, cut and encode on the CPU whatever the config says.
"""

import csv

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import gpu_networks
from benchmarks.gpu_networks import PRECISIONS, WAYS, Measured, Subject
from models.frozen.fold import fold
from models.i3d import as_input, small_i3d
from models.objectives import saliency_maps
from pipeline import focus
from pipeline.data.input_batches import decode_ahead, input_batches
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.stores import open_run
from pipeline.stages import crops, evaluate, saliency, train_base, train_fusion, train_online
from pipeline.workers.engines import Engine
from tests.helpers.tiny_data import change
from tests.workers.test_torchrun import finished, torchrun

pytestmark = [
    pytest.mark.needs_cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU = torch.device("cuda")
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
    """Decoded by a thread or by several processes."""
    saliency.run(_on_gpu(trained.config, workers=workers), trained.path)
    _same_maps(trained, tiny_run)


def test_one_process_a_device(tiny_run, trained):
    """As many as there are cards."""
    devices = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    saliency.run(_on_gpu(trained.config), trained.path, engine=Engine(devices=devices))
    _same_maps(trained, tiny_run)


def _same_maps(one, other):
    """Logits and maps; boxes wherever the maps leave no doubt."""
    found, wanted = (open_run(run.path, run.config) for run in (one, other))
    for part in wanted.run.parts:
        logits = [one.base(part).read_all("logits") for one in (found, wanted)]
        np.testing.assert_allclose(*logits, rtol=TOLERANCE, atol=TOLERANCE)
        codes = [one.maps(part, "entropy").read_all("codes") for one in (found, wanted)]
        apart = np.linalg.norm(np.subtract(*codes, dtype=float)) / np.linalg.norm(codes[1].astype(float))
        assert apart < 0.01
        boxes = [one.boxes(part, "entropy").read_all("box_input") for one in (found, wanted)]
        assert (boxes[0] == boxes[1]).all(1).mean() >= 0.8


@pytest.mark.parametrize("precision", PRECISIONS)
def test_channels_last_and_precision(precision):
    """Features stay in channels-last order; logits and maps are the CPU's in float32, less digits of the precision."""
    torch.manual_seed(0)
    frozen, video = fold(small_i3d(5)), torch.rand(2, 8, 56, 56, 3)
    wanted, wanted_maps = saliency_maps(frozen, video, ["entropy"])
    orders, frozen = [], frozen.to(GPU)
    for name in frozen.layer_names:
        frozen.get_submodule(name).register_forward_hook(
            lambda module, inputs, out: orders.append(out.is_contiguous(memory_format=torch.channels_last_3d))
        )
    logits, maps = saliency_maps(frozen, video.to(GPU), ["entropy"], precision=precision)
    assert orders == [True] * len(frozen.layer_names)
    tolerance = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 0.1}[precision]
    assert logits.dtype == torch.float32 and float((logits.cpu() - wanted).norm() / wanted.norm()) < tolerance
    found, wanted_map = maps["entropy"].cpu(), wanted_maps["entropy"]
    assert float((found - wanted_map).norm() / wanted_map.norm()) < 5 * tolerance


def test_clips_come_from_pinned_memory(trained):
    run = open_folder(trained.path, trained.config)
    part = run.parts[0]
    with decode_ahead([(part, 0)], trained.data, workers=2) as decoded:
        batch = next(input_batches(part, 0, decoded, 2, pin=True))
    assert batch.clips.is_pinned()
    assert torch.equal(as_input(batch.clips, GPU).cpu(), as_input(batch.clips))


@pytest.mark.parametrize("way", [way for way in WAYS if "torch.compile" not in way])
def test_ways_of_the_table(way):
    """CUDA graphs and nn.Conv3d find the boxes of stage 1."""
    subject = Subject("small_i3d", 8, 56, 4)
    found = gpu_networks.saliency(subject, way, "float32", GPU, lambda: Measured(1.0, "TFLOP/s"))
    assert found.boxes.startswith("4 of 4") and found.rate > 0 and found.memory > 1e6


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_train_fusion(tiny_run, looked, fusion):
    """From caches that the CPU has filled."""
    crops.run(looked.config, looked.path, ("entropy",))
    expected = _state(next((tiny_run.path / "models").glob(f"{fusion}-entropy-source-*")))
    _close(_state(train_fusion.run(_on_gpu(looked.config), looked.path, fusion).path), expected)


def test_train_on_the_fly(looked):
    """The boxes are the card's own."""
    wanted = _state(train_online.run(looked.config, looked.path).path)
    for file in next((looked.path / "models").glob("late-entropy-source-online-*")).iterdir():
        file.unlink()
    _close(_state(train_online.run(_on_gpu(looked.config), looked.path).path), wanted)


def test_train_with_autocast(tiny_run, looked):
    """The mean loss of the first epoch is the CPU's in float32, to two digits."""
    crops.run(looked.config, looked.path, ("entropy",))
    config = _on_gpu(looked.config, fusion={"autocast": True})
    found = train_fusion.run(config, looked.path).path
    wanted = next((tiny_run.path / "models").glob("late-entropy-source-*"))
    losses = [pd.read_csv(folder / "metrics.csv").loss[0] for folder in (found, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a GPU more")
def test_torchrun(tiny_run, looked):
    """One process a card, over NCCL."""
    crops.run(looked.config, looked.path, ("entropy",))
    finished(torchrun(_on_gpu(looked.config), looked.path, "train-fusion", "--fusion", "late", processes=2))
    found, wanted = (next((path / "models").glob("late-entropy-source-*")) for path in (looked.path, tiny_run.path))
    _close(_state(found), _state(wanted))


def test_predict(tiny_run):
    """The same scores of a new video."""
    models = [focus.load(tiny_run.path, "late-entropy-source", device) for device in ("cuda", "cpu")]
    scores = [next(one.predict(tiny_run.data / "83654.mp4")).scores.to_numpy() for one in models]
    np.testing.assert_allclose(*scores, atol=0.02)


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
