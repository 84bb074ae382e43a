"""`make gpu-check` as far as a CPU goes: every line is measured by the functions that a card would run."""

import subprocess
import time
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu, gpu_networks, gpu_stages
from benchmarks.gpu import HEAD, Line, lines
from benchmarks.gpu_networks import GRAPH, OURS, PLAIN, TRAINING_WAYS, WAYS, Measured, Subject
from models.losses import negative_entropy
from models.saliency import input_saliency
from tests.helpers.tiny_folders import transformers

CPU = torch.device("cpu")
SMALL = Subject("small_i3d", 4, 28, 2)
MAE = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1, "patch_size": 7}
TINY = {"network": "small_i3d", "num_frames": 4, "resized_side": 32, "input_side": 28, "train": 2, "test": 1}


@pytest.fixture
def listed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_stages, "SIZE", (48, 64))
    monkeypatch.setattr(gpu_stages, "BATCH", 1)
    monkeypatch.setattr(transformers, "VideoMAEConfig", partial(transformers.VideoMAEConfig, **MAE))
    scene = partial(gpu_stages.make_scene, tmp_path, CPU, **TINY)
    return lines(CPU, scene, (SMALL, Subject("hf:videomae", 4, 28, 2)), products=(64,), workers=(1,))


def test_without_a_card_it_says_so_and_nothing_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(gpu.main)
    assert done.exit_code == 0 and "no CUDA device" in done.output and "0 tests failed" in done.output


def test_every_promised_line_is_there(listed):
    """Precisions, ways, T_in, the small network, stages; compiled ones last."""
    on_card = lines(CPU, lambda: None)
    assert {(one.network, one.frames) for one in on_card if one.what == "saliency"} == {
        *(("resnet50_i3d", frames) for frames in (16, 32, 64)), ("small_i3d", 8), ("hf:videomae", 16)
    }  # fmt: skip
    assert [one.how for one in on_card if one.what == "stage 1"] == [f"{n} decode workers" for n in (1, 2, 4, 8, 16)]
    for found in (listed, on_card):
        several = {(one.what, one.how, one.precision) for one in found}
        for precision in ("float32", "tf32", "bfloat16"):
            assert {("saliency", way, precision) for way in WAYS} <= several
            assert {("training step", way, precision) for way in TRAINING_WAYS} <= several
            assert {("stage 3", "from the caches", precision), ("stage 3", "on the fly", precision)} <= several
        compiled = ["torch.compile" in one.how for one in found]
        assert compiled == sorted(compiled) and {"hf:videomae"} == {one.network for one in found} - {
            "-", "resnet50_i3d", "small_i3d"
        }  # fmt: skip
    refused = [one for one in on_card if one.network == "hf:videomae" and one.how.startswith((PLAIN, GRAPH))]
    assert not refused


def test_what_needs_no_compiler_is_measured(listed):
    """Every line but CUDA graphs, which a CPU has not; shares of a product that was measured; boxes of float32."""
    chosen = [one for one in listed if one.precision == "bfloat16" and "torch.compile" not in one.how]
    assert len(chosen) == 1 + 3 + 1 + 2 + 1 + 2
    for line in chosen:
        cells = dict(zip(HEAD, line.measured(), strict=True))
        if line.how == GRAPH:
            assert (
                cells["a second"] == "failed: ValueError: CUDA graphs need a GPU" and cells["of matrix product"] == "-"
            )
            continue
        unit = {"matrix product": "TFLOP/s", "training step": "steps/s of 2 clips", "stage 3": "steps/s of 1 clips"}
        assert cells["a second"].endswith(unit.get(line.what, "clips/s")) and float(cells["a second"].split()[0]) > 0
        assert ("%" in cells["of matrix product"]) == (line.what in ("saliency", "training step"))
        assert (" of 2, overlap " in cells["boxes as in float32"]) == (line.what == "saliency")
        assert ("s (" in cells["waited for decoding"]) == (line.what in ("stage 1", "stage 3"))


def test_a_line_of_the_table():
    line = Line("saliency", "small_i3d", 8, "tf32", OURS, lambda: None)
    full = Measured(12.345, "clips/s", share=0.625, memory=1_234_000_000, boxes="2 of 2", waited=(0.5, 0.25))
    assert dict(zip(HEAD, line.cells(full), strict=True)) == {
        "what": "saliency", "network": "small_i3d", "T_in": "8", "precision": "tf32", "how": OURS,
        "a second": "12.3 clips/s", "of matrix product": "62%", "peak memory": "1.23 GB",
        "boxes as in float32": "2 of 2", "waited for decoding": "0.50 s (25%)",
    }  # fmt: skip
    assert line.cells(gpu.NOT_RUN)[5:] == ("not run", "-", "-", "-", "-")


def test_rates_and_shares(monkeypatch):
    """Two clips in half a second are four a second; forward and backward of 3 GFLOP a clip are 24 of 48 GFLOP/s."""
    monkeypatch.setattr(gpu_networks, "median_seconds", lambda run, device, repeats: 0.5)
    monkeypatch.setattr(gpu_networks, "operations", lambda subject, device: 3 * 10**9)
    product = Measured(0.048, "TFLOP/s")
    found = gpu_networks.saliency(SMALL, OURS, "float32", CPU, lambda: product)
    assert (found.rate, found.share) == (
        pytest.approx(4),
        pytest.approx(0.5),
    ) and found.boxes == "2 of 2, overlap 1.000"
    found = gpu_networks.training(SMALL, PLAIN, "float32", CPU, lambda: product)
    assert (found.rate, found.unit, found.share) == (2, "steps/s of 2 clips", pytest.approx(36 / 48))
    assert gpu_networks.product_rate(CPU, "float32", (100, 10)).rate == pytest.approx(2 * 100**3 / 0.5 / 1e12)


def test_the_pass_that_is_captured_makes_the_maps_of_stage_1():
    ours, plain = gpu_networks.both(SMALL)
    video = SMALL.clips(CPU).requires_grad_()
    _, wanted = input_saliency(ours, video, {"entropy": negative_entropy})
    for network in (ours, plain):
        found = gpu_networks.saliency_map(network, video, "float32")
        assert found.shape == (2, 28, 28)
        torch.testing.assert_close(found, wanted["entropy"], rtol=2e-2, atol=1e-3 * float(wanted["entropy"].max()))
    found, edge = gpu_networks.boxes(wanted["entropy"]), 16
    assert found.shape == (2, 4) and (found[:, 2:] == edge).all() and found.dtype == np.int64


def test_operations_are_those_of_the_plain_network():
    plain = gpu_networks.both(SMALL)[1]
    wanted = gpu_networks.count_operations(lambda: plain(SMALL.clips(CPU)[:1]))
    assert gpu_networks.operations(SMALL, CPU) == wanted > 1e6


SAYS = "import sys, time; print('noise'); print('[\"a\", \"b\"]', flush=True); "


@pytest.mark.parametrize(("then", "seconds", "rest"), [
    ("open(sys.argv[1], 'x'); time.sleep(60)", 1.0, "not run"),
    ("open(sys.argv[1], 'x'); sys.exit(3)", 30.0, "failed: the process that measures ended with code 3"),
])  # fmt: skip
def test_the_time_is_kept_and_what_was_measured_stays(tmp_path, monkeypatch, then, seconds, rest):
    """Of four lines the first one was measured, before the time begins; a process that dies is named in the next."""
    real, said = subprocess.Popen, tmp_path / "said"

    def started(command, **options):
        child = real([command[0], "-c", SAYS + then, str(said)], **options)
        while not said.exists():  # how long a process takes to start is the machine's business
            assert child.poll() is None or said.exists()
            time.sleep(0.01)
        return child

    monkeypatch.setattr(subprocess, "Popen", started)
    started_at, line = time.monotonic(), Line("saliency", "small_i3d", 8, "tf32", OURS, lambda: None)
    found = gpu.measured_within(seconds, str(tmp_path), [line] * 4)
    assert time.monotonic() - started_at < 50
    assert found[0] == ("a", "b") and [one[5] for one in found[1:]] == [rest, "not run", "not run"]
