"""Saliency passes and training steps of a network on a device, in every precision and each way to run them."""

import copy
import json
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.plain_i3d import plain_small
from benchmarks.training_step import step
from cache.geometry import iou
from models.backbones import build
from models.box_search import best_box, quantise
from models.frozen.fold import fold
from models.losses import negative_entropy
from models.objectives import saliency_maps
from models.operations import count_operations
from models.precision import Precision, tf32
from pipeline.workers.device import median_seconds

HF = "hf:videomae"
PRECISIONS = get_args(Precision)
OURS, GRAPH, COMPILED, BOTH = "as the stages do", "CUDA graph", "torch.compile", "torch.compile, CUDA graphs"
PLAIN, PLAIN_COMPILED = "nn.Conv3d, autograd", "nn.Conv3d, autograd, torch.compile"
WAYS = (OURS, GRAPH, PLAIN, BOTH, COMPILED, PLAIN_COMPILED)
TRAINING_WAYS = (OURS, PLAIN, COMPILED, PLAIN_COMPILED)


class Measured(NamedTuple):
    """What a line of the table says; None where it says nothing."""

    rate: float
    unit: str  # how many a second of what
    share: float | None = None  # of the rate of matrix products in this precision
    memory: int | None = None  # peak bytes of tensors on the card
    boxes: str | None = None  # how they agree with those of float32
    waited: tuple[float, float] | None = None  # seconds that the device waited for decoding, and their share of all


class Subject(NamedTuple):
    """A network, and the clips that it gets at once."""

    network: str
    frames: int  # T_in
    side: int  # of the input frame, pixels
    batch: int

    def clips(self, device: torch.device) -> Tensor:
        """Float32 (B, T, H, W, 3) in [0, 1], on the device."""
        return torch.cat([networks.clip(self.frames, self.side, seed) for seed in range(self.batch)]).to(device)


def product_rate(device: torch.device, precision: Precision, sizes: tuple[int, ...]) -> Measured:
    """Measure the rate of products of square matrices, 2 * size ** 3 operations each; of the best size."""
    dtype, rates = torch.bfloat16 if precision == "bfloat16" else torch.float32, []
    with tf32(precision == "tf32"):
        for size in sizes:
            a, b = torch.randn(2, size, size, device=device).to(dtype)
            torch.mm(a, b)
            rates.append(2 * size**3 / median_seconds(partial(torch.mm, a, b), device, repeats=10))
    return Measured(max(rates) / 1e12, "TFLOP/s")


@cache
def both(subject: Subject) -> tuple[nn.Module, nn.Module | None]:
    """Build our network, and the same weights in plain nn.Conv3d if it is an I3D: on the CPU, in eval mode."""
    if subject.network == "resnet50_i3d":
        return networks.both_networks()
    torch.manual_seed(0)
    if subject.network == HF:
        from transformers import VideoMAEConfig  # an extra

        config = VideoMAEConfig(num_frames=subject.frames, image_size=subject.side)
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            colours = json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
            (Path(folder) / "preprocessor_config.json").write_text(colours)
            return build(f"hf:{folder}", networks.CLASSES).eval(), None
    ours, edge = build(subject.network, networks.CLASSES), -(-subject.side // 16)  # edge of the last feature map
    plain = plain_small(networks.CLASSES, (1, edge, edge))
    plain.load_state_dict(ours.state_dict())
    return ours.eval(), plain.eval()


@cache
def operations(subject: Subject, device: torch.device) -> int:
    """Count the floating-point operations of a forward pass of one clip."""
    network, video = _network(subject, OURS, device), subject._replace(batch=1).clips(device)
    with torch.no_grad():
        return count_operations(lambda: network(video))


Product = Callable[[], Measured]  # measures matrix products in the precision of a line


def saliency(subject: Subject, way: str, precision: Precision, device: torch.device, product: Product) -> Measured:
    """Measure maps a second of one way to make them, and compare their boxes."""

    def prepare() -> Callable[[], Tensor]:
        network, video = _network(subject, way, device).requires_grad_(False), subject.clips(device)
        network = network if PLAIN in way else fold(network)
        if way == OURS:
            return lambda: saliency_maps(network, video, ["entropy"], precision=precision)[1]["entropy"]
        if COMPILED in way:
            torch._dynamo.reset()  # it compiles one class a few times at most
            network.compile(dynamic=False, mode="reduce-overhead" if way == BOTH else None)
        run = partial(saliency_map, network, video.requires_grad_(), precision)
        return _captured(run, device) if way == GRAPH else run

    seconds, memory, maps = _time(prepare, device)
    exact = fold(_network(subject, OURS, device))
    found, wanted = boxes(maps), boxes(saliency_maps(exact, subject.clips(device), ["entropy"])[1]["entropy"])
    agreement = f"{(found == wanted).all(1).sum()} of {len(wanted)}, overlap {iou(found, wanted).mean():.3f}"
    share = 2 * operations(subject, device) * subject.batch / seconds / 1e12 / product().rate  # 2: and backward
    return Measured(subject.batch / seconds, "clips/s", share, memory, agreement)


def training(subject: Subject, way: str, precision: Precision, device: torch.device, product: Product) -> Measured:
    """Measure training steps a second on clips that lie on the device."""

    def prepare() -> Callable[[], None]:
        network, video = _network(subject, way, device).train(), subject.clips(device)
        if COMPILED in way:
            torch._dynamo.reset()
            network.compile(dynamic=False)
        optimiser = torch.optim.SGD(network.parameters(), 1e-4, 0.9)
        actions = (torch.rand(subject.batch, networks.CLASSES) < 0.05).float().to(device)
        return partial(step, network, optimiser, video, actions, precision)

    seconds, memory, _ = _time(prepare, device)
    # 3: forward, backward to weights and backward to inputs
    share = 3 * operations(subject, device) * subject.batch / seconds / 1e12 / product().rate
    return Measured(1 / seconds, f"steps/s of {subject.batch} clips", share, memory)


def saliency_map(network: nn.Module, video: Tensor, precision: Precision) -> Tensor:
    """Compute the maps (B, H, W) of `models.saliency` without its look at their values, which waits for the device.

    The video, float32 (B, T, H, W, 3), requires its gradient.
    """
    with tf32(precision == "tf32"):
        low = precision == "bfloat16"
        with torch.autocast(video.device.type, torch.bfloat16, enabled=low, cache_enabled=False):  # for CUDA graphs
            logits = network(video).float()
        (gradient,) = torch.autograd.grad(negative_entropy(logits).sum(), video)
    return sum(colour.square() for colour in gradient.unbind(-1)).sqrt().amax(1)


def boxes(maps: Tensor) -> np.ndarray:
    """Find the box of each map (B, H, W) of the input frame: int (B, 4), top, left, height, width."""
    edge = maps.shape[1] * networks.BOX // networks.SIDE
    return np.array([(*best_box(quantise(one)[0], edge, edge)[:2], edge, edge) for one in maps.float().cpu().numpy()])


def _network(subject: Subject, way: str, device: torch.device) -> nn.Module:
    return copy.deepcopy(both(subject)[PLAIN in way]).to(device)


def _time(prepare: Callable[[], Callable], device: torch.device) -> tuple[float, int | None, Tensor | None]:
    """Time what `prepare` gives: (seconds, peak bytes on a card, its result)."""
    if on_card := device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = prepare()
    result = [run() for _ in range(3)][-1]
    seconds = median_seconds(run, device, repeats=5)
    return seconds, torch.cuda.max_memory_allocated() if on_card else None, result


def _captured(run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Capture a call in a CUDA graph; return a function that replays it."""
    if device.type != "cuda":
        raise ValueError("CUDA graphs need a GPU")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # what is allocated or chosen at first
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return lambda: graph.replay() or result
