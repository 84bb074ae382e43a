"""Time a few steps of a training: its own loop, network and batches, on the videos of a spare run."""

import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from models.backbones import build
from pipeline.config import Config, Fusion
from pipeline.preflight.rehearsal import crops_policy, quiet
from pipeline.run.folder import open_folder
from pipeline.run.networks import Variant, build_base
from pipeline.run.stores import open_run
from pipeline.training.base_clips import BaseClips
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.fusion_step import fusion_loss
from pipeline.training.loader import TrainingData
from pipeline.training.loop import fit
from pipeline.workers.device import pick_device
from pipeline.workers.peak_memory import peak_bytes, reset_peak, resident_bytes

STEPS = 200  # that are timed, at most


@dataclass(frozen=True)
class TrainingCost:
    """What one training takes.

    Attributes:
        step_seconds: of a whole batch, and of waiting for it to be loaded.
        epoch_seconds: of an epoch beyond its steps: to start loading, and to write a checkpoint.
        memory: bytes of the process at its peak, or of the GPU if that is more.
        is_exact: whether a whole batch was timed; if not, time and memory are extrapolated from smaller ones.
        hold_seconds, held_bytes: of a video that Base's training reads into memory, by one worker.
    """

    step_seconds: float
    epoch_seconds: float
    memory: int
    is_exact: bool
    hold_seconds: float = 0.0
    held_bytes: int = 0


def time_base(config: Config, run: Path, batch: int, seconds: float) -> TrainingCost:
    """Time steps of train-base.

    Args:
        config, run: of a spare run in which train-base has ended.
        batch: clips of a whole batch; the videos of the spare run are repeated to fill it.
        seconds: for all steps, about; at least two steps of one clip are made.
    """
    folder = open_folder(run, config)
    BaseClips(folder, config)  # if it holds videos in memory, this starts the workers
    started = time.perf_counter()
    clips = BaseClips(folder, config)
    holding = time.perf_counter() - started
    network, videos = build(config.base.network, len(folder.annotations.classes)), len(clips.videos)

    def load(epoch: int, numbers: list[int]):
        return clips.load(epoch, [number % videos for number in numbers])

    recipe = replace(config.base, batch_size=batch)
    cost = _time_steps(network.to(pick_device(config.device)), load, clips.loss, recipe, seconds)
    if clips.held is None:
        return cost
    held = sum(frames.nbytes for frames in clips.held) // videos
    return replace(cost, hold_seconds=holding / ceil(videos / config.workers), held_bytes=held)


def time_fusion(config: Config, run: Path, fusion: Fusion, batch: int, seconds: float) -> TrainingCost:
    """Time steps of train-fusion in a spare run in which crops has ended; see `time_base`."""
    stores = open_run(run, config)
    volumes = CachedVolumes(stores, "train", Variant(fusion, crops_policy(config)))
    places = [place for rows in volumes.places().values() for place in rows]

    def load(epoch: int, numbers: list[int]):
        return volumes.load([places[number % len(places)] for number in numbers])

    def loss(network, values):
        return fusion_loss(network, values, fusion, config.fusion)

    recipe = replace(config.fusion, batch_size=batch)
    network = build_base(stores.base_weights).to(pick_device(config.device))
    return _time_steps(network, load, loss, recipe, seconds)


def _time_steps(network, load, loss, recipe, seconds: float) -> TrainingCost:
    """Time batches of 1, 2, 4, ... clips up to a whole one, while time and memory last; then many whole ones."""
    device = next(network.parameters()).device

    def train(steps: int, size: int) -> float:
        """Seconds of one epoch, with a learning rate so small that the weights stay as they are."""
        one = replace(recipe, epochs=1, batch_size=size, learning_rate=1e-12, tensorboard=False)
        own, started = deepcopy(network), time.perf_counter()
        with quiet(), TemporaryDirectory(prefix="plan-") as folder:
            fit(own, TrainingData(load, steps * size, loss, "plan"), one, Path(folder), 0)
        return time.perf_counter() - started

    points, idle, deadline = [], resident_bytes(), time.monotonic() + seconds  # points: (clips, seconds, bytes)
    for size in batch_sizes(recipe.batch_size):
        if points:
            (clips, taken, taken_bytes), left = points[-1], deadline - time.monotonic()
            if 2 * taken * size / clips > left or taken_bytes * size / clips > 0.7 * _available_memory():
                break
        train(1, size)  # the first of a size is slower
        reset_peak()
        points.append((size, train(1, size), peak_bytes() - idle))
    size, one, taken_bytes = points[-1]
    if size < recipe.batch_size:
        step, more = (extended([(point[0], point[kind]) for point in points], recipe.batch_size) for kind in (1, 2))
        return TrainingCost(step, 0.0, round(idle + more), is_exact=False)
    memory = idle + taken_bytes
    if device.type == "cuda":
        memory = max(memory, torch.cuda.max_memory_allocated(device))
    steps = min(max(int((deadline - time.monotonic()) / one), 2), STEPS)
    step = max(train(steps, size) - one, 0.0) / (steps - 1)
    return TrainingCost(step, max(one - step, 0.0), memory, is_exact=True)


def batch_sizes(batch: int) -> list[int]:
    """1, 2, 4, ... and the batch size."""
    return [*(2**power for power in range((batch - 1).bit_length())), batch]


def extended(points: list[tuple[int, float]], size: int) -> float:
    """Extend the line through the last two points to a size; at most in proportion to the last point."""
    (last, value), (before, earlier) = points[-1], (points[-2] if len(points) > 1 else (0, 0.0))
    slope = min(max(value - earlier, 0.0) / (last - before), value / last)
    return value + slope * (size - last)


def _available_memory() -> int:
    """Bytes of memory that could be taken now; where Linux does not say, no limit."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62
