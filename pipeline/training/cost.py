"""What an experiment costs a video: operations and seconds of its parts, measured on a few clips of the run's size."""

import platform
import time
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor

from models.frozen.fold import fold
from models.i3d import as_input
from models.objectives import MapKind, saliency_maps
from models.operations import count_operations
from models.precision import tf32
from pipeline.box_settings import named, num_boxes
from pipeline.config import OBJECTIVES, Config, Fusion
from pipeline.data.clips import resized_frames
from pipeline.data.video.find import video_folder
from pipeline.errors import VideoError
from pipeline.run.costs import Cost
from pipeline.run.fusion_models import Variant, build_fusion, fused_frames
from pipeline.run.networks import build_base
from pipeline.run.stores import Stores
from pipeline.workers.device import cpu_threads, median_seconds, pick_device

VIDEOS = 3  # that are decoded, at most


def measure(stores: Stores, results: Iterable[dict]) -> dict[str, Cost]:
    """Measure results of this config, given by their facts, on this machine; each kind of pass once.

    Clips are noise; a GPU takes as many as a batch and a video have, a CPU one. Cutting the focused volume is not
    counted. Seconds of "decode" are left out where no video can be read.

    Returns:
        by key of the result: what one video costs, which is `clips.eval_clips` clips.
    """
    config, device, costs = stores.config, pick_device(stores.config.device), {}
    with cpu_threads(device, config.saliency.threads):
        passes = _base_passes(stores, device)
        decode = _decode_seconds(stores)
        by_gradient = {named(policy, config.saliency) for policy in OBJECTIVES}
        for facts in results:
            fusion, boxes = facts["fusion"], facts["boxes_eval"]
            number = 1 if boxes == "repeat" else num_boxes(config.saliency)
            names = ["look"] if boxes in by_gradient else []
            names += ["base"] if fusion != "concat" or names else []  # concatenation reads no logits of Base
            if fusion != "none":
                names.append("second")
                if (fusion, number) not in passes:
                    passes[fusion, number] = _second_pass(stores, fusion, number, device)
            found = {name: passes[(fusion, number) if name == "second" else name] for name in names}
            seconds = {} if decode is None else {"decode": decode}
            seconds |= {name: value for name, (_, value) in found.items()}
            gflop = {name: value for name, (value, _) in found.items()}
            costs[facts["key"]] = {"gflop": gflop, "seconds": seconds, "device": _device_name(device)}
    return costs


def _base_passes(stores: Stores, device: torch.device) -> dict:
    """GFLOP and seconds a video of Base's forward pass, and of what its gradient takes more."""
    config, saliency = stores.config, stores.config.saliency
    network = fold(build_base(stores.base_weights)).to(device)
    video = _noise(config, device, saliency.batch_size)
    how = MapKind.of(saliency), saliency.precision, None, config.data.task

    def forward() -> None:
        with torch.no_grad():
            saliency_maps(network, video, (), *how)

    base = _cost(forward, len(video), config, device)
    both = _cost(lambda: saliency_maps(network, video, ("entropy",), *how), len(video), config, device)
    again = saliency.looks - 1  # further ones, of most clips fewer, each with a forward pass of its own
    look = both[0] - base[0] + again * both[0], max(0.0, both[1] - base[1]) + again * both[1]
    return {"base": base, "look": look}


def _second_pass(stores: Stores, fusion: Fusion, number: int, device: torch.device) -> tuple[float, float]:
    """GFLOP and seconds a video of the second network, as `evaluate` calls it, with this number of boxes a clip."""
    config = stores.config
    network = build_fusion(stores.base_weights, config, Variant(fusion, "repeat" if number == 1 else "entropy"))
    network = network.to(device).eval()
    clips = _noise(config, device, config.fusion.batch_size, fused_frames(1, fusion, number))

    def forward() -> None:
        with torch.inference_mode(), tf32(False):
            network(clips)

    gflop, seconds = _cost(forward, len(clips), config, device)
    looks = number if fusion == "late" else 1  # late fusion looks at each box by itself
    return looks * gflop, looks * seconds


def _cost(run, num_clips: int, config: Config, device: torch.device) -> tuple[float, float]:
    """GFLOP and seconds of `clips.eval_clips` clips; `run` takes num_clips at once."""
    share = config.clips.eval_clips / num_clips
    return count_operations(run) / 1e9 * share, median_seconds(run, device) * share


def _noise(config: Config, device: torch.device, batch_size: int, length: int = 1) -> Tensor:
    """Clips of noise, float32 (B, T, H, W, 3) in [0, 1]."""
    clips, number = config.clips, 1 if device.type == "cpu" else min(batch_size, config.clips.eval_clips)
    shape = number, length * clips.num_frames, clips.input_side, clips.input_side, 3
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return as_input(pixels, device)


def _decode_seconds(stores: Stores) -> float | None:
    """Mean seconds to decode and resize the frames of all clips of an evaluation video; None where none can be read."""
    part, seconds = stores.run.parts_of("test")[0], []
    for first in range(0, part.num_rows, part.rows_per_video)[:VIDEOS]:
        rows, started = list(range(first, first + part.rows_per_video)), time.perf_counter()
        with suppress(VideoError):
            for _ in resized_frames(part, rows, video_folder(stores.config.data)):
                pass
            seconds.append(time.perf_counter() - started)
    return sum(seconds) / len(seconds) if seconds else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}"
