"""A few timed steps of a training, and what its files will take: the same network, optimiser and loss, real clips."""

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from cache.commit import write_file
from models.backbones import build
from models.checkpoint import to_bytes
from models.i3d import as_input
from models.losses import charades_loss
from pipeline.config import Config, Training
from pipeline.training.loader import Batch
from pipeline.training.loop import fit
from pipeline.workers.device import cpu_threads, pick_device
from pipeline.workers.peak_memory import held_bytes, peak_bytes, reset_peak

STEPS, PASSES = 400, 10  # of training and of evaluation that are timed, at most


@dataclass(frozen=True)
class TrainingCost:
    """What one training takes.

    Attributes:
        step_seconds: of a whole batch. forward_seconds, forward_bytes: of one clip of a batch, in eval mode.
        memory: peak bytes of the process. left: those it still has after its last step.
        weights_bytes, checkpoint_bytes: of their files. save_seconds: to make and write a checkpoint. ready_seconds: to
            build the network, with its first pass. start_seconds: that, and the first step beyond what a step takes.
        exact: a whole batch was timed; otherwise parts of it, and time and memory follow the line through them.
    """

    step_seconds: float
    forward_seconds: float
    forward_bytes: int
    memory: int
    left: int
    weights_bytes: int
    checkpoint_bytes: int
    save_seconds: float
    ready_seconds: float
    start_seconds: float
    exact: bool


def measure_training(
    config: Config, training: Training, clips: np.ndarray, classes: int, seconds: float
) -> TrainingCost:
    """Time some steps.

    Args:
        training: the recipe.
        clips: uint8 (N, T, H, W, 3) of this training's length T; repeated until they fill a batch.
        classes: number of them.
        seconds: for all of it, about: up to STEPS of a whole batch. At least two steps of one clip are made.
    """
    device, started = pick_device(config), time.monotonic()
    before = held_bytes()
    network = build(config.base.network, classes).to(device).train()
    with torch.no_grad():  # before anything else has taken and freed memory that this could use
        network.eval()
        built = held_bytes()
        network(as_input(torch.from_numpy(clips[:1]), device)).cpu()
        forward_bytes = max(peak_bytes() - built, 0)
    ready = time.monotonic() - started
    batch = np.resize(clips, (training.batch_size, *clips.shape[1:]))
    forward = _forward_seconds(network, batch, device, config, seconds)
    network.train()
    network.activation_checkpointing = training.activation_checkpointing
    optimiser = torch.optim.SGD(
        network.parameters(), training.learning_rate, training.momentum, weight_decay=training.weight_decay
    )

    def step(size: int) -> float:
        begun = time.perf_counter()
        batch = torch.from_numpy(np.resize(clips, (size, *clips.shape[1:])))
        targets = torch.zeros(size, classes, device=device), torch.zeros(size, clips.shape[1], classes, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
            logits = network(as_input(batch, device)).float()
            loss = charades_loss(logits, *targets, training.video_loss_weight)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        float(loss.detach())  # waits for the device
        return time.perf_counter() - begun

    start = ready + step(1)
    held, points = held_bytes(), []  # (clips, seconds, memory beyond what is held) of every size tried
    for size in _sizes(training.batch_size):
        if points:
            share = size / points[-1][0]
            if time.monotonic() - started + 2 * share * points[-1][1] > seconds:
                break
            if share * points[-1][2] > 0.7 * _available():
                break
            step(size)  # the first of a size is slower
        reset_peak()
        times = [step(size)]
        if size < training.batch_size and time.monotonic() - started + times[-1] < seconds:
            times.append(step(size))
        points.append((size, min(times), max(peak_bytes() - held, 0)))
    start -= points[0][1]
    with TemporaryDirectory(prefix="plan-") as folder:
        begun = time.perf_counter()
        checkpoint = to_bytes({"network": network.state_dict(), "optimiser": optimiser.state_dict()})
        write_file(Path(folder) / hashlib.sha256(checkpoint).hexdigest(), checkpoint)
        save = time.perf_counter() - begun
    if points[-1][0] == training.batch_size:
        remaining = seconds - (time.monotonic() - started)
        steps = min(max(round(remaining / points[-1][1]), 1), STEPS)
        taken = max(_trained(network, training, clips, classes, device, steps) - save, 0.0) / steps
        points.append((training.batch_size, taken, points.pop()[2]))
    left = held_bytes() - len(checkpoint)
    if device.type == "cuda":  # what is scarce there
        held, points[-1] = 0, (*points[-1][:2], torch.cuda.max_memory_allocated(device))
    weights = to_bytes({name: value.cpu() for name, value in network.state_dict().items()})
    step_seconds, memory = (
        _extended([(point[0], point[kind]) for point in points], training.batch_size) for kind in (1, 2)
    )
    memory = max(held + memory, before + 4 * len(checkpoint)) if device.type == "cpu" else memory
    exact = points[-1][0] == training.batch_size
    sizes = round(memory), min(left, round(memory)), len(weights), len(checkpoint)
    times = save, ready, max(start, 0.0)
    return TrainingCost(step_seconds, forward, forward_bytes, *sizes, *times, exact)


def _forward_seconds(network, batch: np.ndarray, device: torch.device, config: Config, seconds: float) -> float:
    """Of a clip, as `evaluate` has it: before anything was trained, of as much of a batch as there is time for."""
    begun, passes, size = time.monotonic(), [], 1
    with torch.no_grad(), cpu_threads(device, config.saliency.threads):
        while len(passes) < 3 or (len(passes) < PASSES and time.monotonic() - begun < 0.1 * seconds):
            passed = time.perf_counter()
            network(as_input(torch.from_numpy(batch[:size]), device)).cpu()
            passes.append((time.perf_counter() - passed) / size)
            if len(passes) == 1:
                size = min(max(int(0.02 * seconds / passes[0]), 1), len(batch))
    return float(np.median(passes[2:]))  # the first of a size is slower


def _trained(network, training: Training, clips: np.ndarray, classes: int, device: torch.device, steps: int) -> float:
    """Seconds of some steps, and of a checkpoint, in the training loop itself."""

    def load(epoch: int, numbers: list[int]) -> Batch:
        volumes = np.stack([clips[number % len(clips)] for number in numbers])
        shape = len(numbers), clips.shape[1], classes
        return torch.from_numpy(volumes), torch.zeros(shape[0], classes), torch.zeros(shape)

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        logits = network(as_input(batch[0], device)).float()
        return charades_loss(logits, *batch[1:], training.video_loss_weight)

    one = replace(training, epochs=1, loader_workers=0, tensorboard=False)
    with TemporaryDirectory(prefix="plan-") as folder:
        started = time.perf_counter()
        fit(network, load, steps * training.batch_size, loss, one, Path(folder), 0, device, "plan, training")
        return time.perf_counter() - started


def _sizes(batch: int) -> list[int]:
    """1, 2, 4, ... and the batch size."""
    return [*(2**power for power in range((batch - 1).bit_length())), batch]


def _extended(points: list[tuple[int, float]], size: int) -> float:
    """The value at a size: the last point's, or on the line through the last two, but never more than in proportion."""
    (last, value), (before, earlier) = points[-1], (points[-2] if len(points) > 1 else (0, 0.0))
    slope = min(max(value - earlier, 0.0) / (last - before), value / last)
    return value + slope * (size - last)


def _available() -> int:
    """Bytes of memory that could be taken now, as Linux guesses; without a guess, enough."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 1 << 62
