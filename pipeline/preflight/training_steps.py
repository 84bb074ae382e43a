"""Time a few steps of a training: its own loop, network and batches, on the videos of a spare run."""

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from models.backbones import build
from pipeline.config import Config, Fusion
from pipeline.preflight.rehearsal import crops_policy, quiet
from pipeline.run.folder import open_folder
from pipeline.run.fusion_models import Variant, build_fusion
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
        step_seconds: of a whole batch, and of its loading as far as the step waits for it.
        epoch_seconds: of an epoch beyond its steps: to start loading, and to write a checkpoint.
        memory: bytes of the process at its peak, or of the GPU if that is more.
        is_exact: whether a whole batch was timed; otherwise smaller ones, and time and memory are extrapolated.
        hold_seconds, held_bytes: of a video that train-base reads and keeps in memory; seconds of one worker.
    """

    step_seconds: float
    epoch_seconds: float
    memory: int
    is_exact: bool
    hold_seconds: float = 0.0
    held_bytes: int = 0


@quiet()
def time_base(config: Config, run: Path, batch: int, seconds: float) -> TrainingCost:
    """Time steps of train-base.

    Args:
        config, run: of a spare run in which train-base has ended.
        batch: clips of a whole batch; the videos of the spare run are repeated to fill it.
        seconds: for all steps, about; a few steps of one and of two clips are made in any case.
    """
    one = replace(config, workers=1)  # without the start of other processes
    folder, started = open_folder(run, one), time.perf_counter()
    clips = BaseClips(folder, one)
    holding = time.perf_counter() - started
    network, videos = (
        build(config.base.network, len(folder.annotations.classes), **dict(config.base.options)),
        len(clips.videos),
    )

    def load(epoch: int, numbers: list[int]):
        return clips.load(epoch, [number % videos for number in numbers])

    recipe = replace(config.base, batch_size=batch)
    cost = _time_steps(network.to(pick_device(config.device)), load, clips.loss, recipe, seconds)
    if clips.held is None:
        return cost
    held = sum(frames.nbytes for frames in clips.held) // videos
    return replace(cost, hold_seconds=holding / videos, held_bytes=held)


@quiet()
def time_fusion(config: Config, run: Path, fusion: Fusion, batch: int, seconds: float) -> TrainingCost:
    """Time steps of train-fusion; as `time_base`, in a spare run in which crops has ended."""
    stores = open_run(run, config)
    variant = Variant(fusion, crops_policy(config))
    volumes = CachedVolumes(stores, "train", variant)
    places = [place for rows in volumes.places().values() for place in rows]

    def load(epoch: int, numbers: list[int]):
        return volumes.load([places[number % len(places)] for number in numbers])

    def loss(network, values):
        return fusion_loss(network, values, fusion, config.fusion, config.data.task)

    recipe = replace(config.fusion, batch_size=batch)
    network = build_fusion(stores.base_weights, config, variant).to(pick_device(config.device))
    return _time_steps(network, load, loss, recipe, seconds)


def _time_steps(network, load, loss, recipe, seconds: float) -> TrainingCost:
    """Time batches of 1, 2, 4, ... clips up to a whole one, while time and memory last; then many whole ones."""
    device = next(network.parameters()).device

    def train(steps: int, size: int) -> float:
        """Seconds of one epoch of so many steps."""
        one = replace(recipe, batch_size=size, tensorboard=False)
        own, started = deepcopy(network), time.perf_counter()
        with TemporaryDirectory(prefix="plan-") as folder:
            fit(own, TrainingData(load, steps * size, loss, "plan"), one, Path(folder), 0)
        return time.perf_counter() - started

    idle, started = resident_bytes(), time.monotonic()
    train(1, 1)  # the first of a size is slower
    one, two = train(1, 1), train(2, 1)
    epoch, points = min(max(2 * one - two, 0.0), one), []  # points: (clips, seconds of a step, bytes that it takes)
    for size in batch_sizes(recipe.batch_size):
        left = seconds - (time.monotonic() - started)
        if points:
            clips, step, memory = points[-1]
            growth = size / clips
            too_slow = len(points) > 1 and 2 * (epoch + growth * step) > left  # a line needs two points
            if too_slow or growth * memory > 0.7 * _available_memory():
                break
            train(1, size)
        reset_peak()
        points.append((size, max(train(1, size) - epoch, 0.0), max(peak_bytes() - idle, 0)))
    step, memory = (extended([(point[0], point[kind]) for point in points], recipe.batch_size) for kind in (1, 2))
    memory = round(idle + memory)
    if device.type == "cuda":
        memory = max(memory, torch.cuda.max_memory_allocated(device))
    is_exact = points[-1][0] == recipe.batch_size
    if is_exact:
        steps = min(max(int((left - epoch) / max(step, 1e-3)), 2), STEPS)
        step = max(train(steps, recipe.batch_size) - epoch, 0.0) / steps
    return TrainingCost(step, epoch, memory, is_exact)


def batch_sizes(batch: int) -> list[int]:
    """1, 2, 4, ... and the batch size."""
    return [*(2**power for power in range((batch - 1).bit_length())), batch]


def extended(points: list[tuple[int, float]], size: int) -> float:
    """The value at a size, on the line through the last two points, but never more than in proportion to the last."""
    (last, value), (before, earlier) = points[-1], (points[-2] if len(points) > 1 else (0, 0.0))
    slope = min(max(value - earlier, 0.0) / (last - before), value / last)
    return value + slope * (size - last)


def _available_memory() -> int:
    """Bytes of memory that could be taken now, as Linux guesses; without a guess, any number of them."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 1 << 62
