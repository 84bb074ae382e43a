"""Measure what a row of the paper's size costs on one core: its saliency map by ResNet50-I3D, and its crops."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import saliency_box
from benchmarks.networks import CLASSES, clip
from benchmarks.scene import make
from models.frozen.fold import fold
from models.i3d import resnet50_i3d
from pipeline.data.video.write import write_video
from pipeline.stages import crops
from pipeline.workers.device import cpu_threads

FRAMES = 64  # T_in
TIMED_FRAMES = 16  # that are run through the network; its work is the same for every one of them
VIDEOS, ROWS, SECONDS, FPS, SIZE = 2, 4, 12, 24, (480, 640)  # of the generated videos


@dataclass(frozen=True)
class RowCost:
    """Of one row of FRAMES frames.

    Attributes:
        saliency_seconds: forward pass, input gradient and box, on one core.
        saliency_gflop: of that, 1e9 FLOP.
        crops_seconds: stage 2 for context and focused volume, decoding included, on one core.
    """

    saliency_seconds: float
    saliency_gflop: float
    crops_seconds: float


def measure(folder: Path) -> RowCost:
    """Time the saliency of a clip, and the crops of generated videos in an empty folder, in one thread."""
    with cpu_threads(torch.device("cpu"), 1):
        return RowCost(*_time_saliency(), _time_crops(folder))


def _time_saliency() -> tuple[float, float]:
    """Seconds and GFLOP of a row: forward pass, input gradient and box."""
    network, video = fold(resnet50_i3d(CLASSES)), clip(TIMED_FRAMES)
    saliency_box.ours(network, video)  # warm
    start = time.perf_counter()
    saliency_box.ours(network, video)
    seconds = time.perf_counter() - start
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(video)
    more = FRAMES / TIMED_FRAMES
    return more * seconds, more * 2 * counter.get_total_flops() / 1e9  # backward to the input alone takes as many


def _time_crops(folder: Path) -> float:
    """Seconds of a row in `crops`, with boxes in the centre."""
    video = folder / "video.mp4"
    write_video(video, _noisy_frames(), FPS)
    scene = make(folder / "scene", VIDEOS, network="small_i3d", video=video, num_frames=FRAMES, aug_seeds=ROWS)
    start = time.perf_counter()
    crops.run(scene.config, scene.run, ("center",))
    return (time.perf_counter() - start) / (VIDEOS * ROWS)


def _noisy_frames():
    """A coarse picture that drifts under noise, uint8 (H, W, 3)."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(40, 200, (40, 60, 3)), np.ones((16, 16, 1)))
    for number in range(SECONDS * FPS):
        frame = picture[number // 3 :, 2 * number // 3 :][: SIZE[0], : SIZE[1]]
        yield (frame + rng.integers(-9, 9, (*SIZE, 1))).astype(np.uint8)
