"""Rows 19 to 21: what a user would try first on a CPU: torch.compile, ONNX Runtime, OpenVINO. Row 22 is row 14's."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import saliency_box
from benchmarks.networks import both_networks, clip
from benchmarks.result import Result, of_times
from benchmarks.timing import both_sides, interleaved
from models.frozen.fold import fold
from models.operations import count_operations


def against_compiled() -> Result:
    """Row 19: saliency map and box, against torch.compile, that is inductor, of the plain network and autograd."""
    network, plain = both_networks()
    folded, video = fold(network), clip(16)
    differences = saliency_box.agreement(folded, plain, video)
    with torch.no_grad():
        gflop = 2 * count_operations(lambda: plain(video)) / 1e9  # the backward pass to the input takes as many again
    plain.compile(dynamic=False)
    times = both_sides(lambda: saliency_box.ours(folded, video), lambda: saliency_box.plainly(plain, video), repeats=5)
    return of_times(
        times,
        name="saliency map and box of a clip of 16 frames, against torch.compile of nn.Conv3d and autograd",
        goal="≥ 1",
        met=times.ratio >= 1 and saliency_box.is_exact(differences),
        agreement=f"{saliency_box.words(differences)}; {gflop / times.ours:.0f} and {gflop / times.theirs:.0f} GFLOP/s",
    )


def against_onnxruntime() -> Result:
    """Row 20."""
    import onnxruntime  # of the extra `bench`, as the next one

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()

    def prepare(path: Path) -> Callable[[np.ndarray], np.ndarray]:
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        return lambda video: session.run(None, {session.get_inputs()[0].name: video})[0]

    return forward("ONNX Runtime", prepare)


def against_openvino() -> Result:
    """Row 21."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}

    def prepare(path: Path) -> Callable[[np.ndarray], np.ndarray]:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        return lambda video: compiled(video)[0]

    return forward("OpenVINO", prepare)


def forward(name: str, prepare: Callable[[Path], Callable[[np.ndarray], np.ndarray]]) -> Result:
    """Compare forward passes of a clip of 16 frames: these engines give no gradient.

    Args:
        prepare: the plain network as an ONNX file to a function from a clip to logits.
    """
    network, plain = both_networks()
    folded, video = fold(network), clip(16)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "plain.onnx"
        torch.onnx.export(plain, (video,), path, dynamo=True, verbose=False)
        theirs = prepare(path)
        sides = {"ours": torch.inference_mode()(lambda: folded(video)), "theirs": lambda: theirs(video.numpy())}
        sides["map"] = lambda: saliency_box.ours(folded, video)
        reference = sides["theirs"]()
        difference = float(np.abs(sides["ours"]().numpy() - reference).max() / np.abs(reference).max())
        seconds = {side: median(one) for side, one in interleaved(sides, repeats=5).items()}
    ratio, looks = seconds["theirs"] / seconds["ours"], seconds["map"] / seconds["theirs"]
    return Result(
        f"forward pass on a clip of 16 frames, against {name}",
        *(seconds["ours"], seconds["theirs"], ratio),
        goal="≥ 1",
        met=ratio >= 1 and difference <= 1e-4,
        agreement=f"logits to {difference:.0e}; our map and box take {looks:.2f} of its forward pass",
    )
