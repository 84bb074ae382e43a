"""What a network is trained on, and the batches of an epoch, read ahead."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.config import Training
from pipeline.workers import phases
from pipeline.workers.distributed import current_world
from pipeline.workers.prefetch import prefetch

Batch = tuple  # of tensors, or of what has a method `to`


class TrainingData(NamedTuple):
    """What a network is trained on."""

    load: Callable[[int, list[int]], Batch]  # (epoch, clip numbers) to a batch on the CPU, its pixels uint8
    num_clips: int  # of an epoch, numbered from 0
    loss: Callable[[nn.Module, Batch], Tensor]  # (network, batch on the device) to a scalar, the mean over the batch
    label: str  # of the progress display
    identity: str = ""  # of labels and clips; a checkpoint of another one is refused


def num_steps(num_clips: int, training: Training) -> int:
    """Return the number of batches of an epoch; the last one may be smaller, unless `drop_last` leaves that out."""
    full, rest = divmod(num_clips, training.batch_size)
    return full + (rest > 0 and not training.drop_last)


class Epoch(Dataset):
    """The batches of one epoch, in an order that seed and epoch alone decide, so a resumed run sees the same ones.

    Each process of torchrun loads its share of each batch.
    """

    def __init__(
        self, load: Callable[[int, list[int]], Batch], num_clips: int, size: int, seed: int, epoch: int, steps: int
    ):
        order = np.random.default_rng([seed, epoch]).permutation(num_clips).tolist()
        self.batches = [order[step * size : (step + 1) * size] for step in range(steps)]
        self.load, self.epoch, self.world, self.profiler = load, epoch, current_world(), phases.profiler_id()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> tuple[Batch | Exception, phases.Seconds]:
        batch = self.batches[step]
        clips = [batch[number] for number in self.world.shard(len(batch)).padded]
        return phases.profile_worker(self.profiler, lambda: self._load(clips), ahead=True)

    def _load(self, clips: list[int]) -> Batch | Exception:
        """Load a batch, or return the error: PyTorch would put the traceback of its process into the message."""
        try:
            return self.load(self.epoch, clips)
        except Exception as error:
            if isinstance(error, OSError) or hasattr(error, "exit_code"):  # of the input or the storage, no bug
                return error
            raise


def epoch_batches(
    data: TrainingData, training: Training, seed: int, epoch: int, first: int, pin: bool
) -> Iterator[Batch]:
    """Yield the batches of an epoch from number `first` on, read ahead by `loader_workers` processes or a thread.

    Args:
        pin: put the batches into pinned memory, from which a GPU takes them.
    """
    steps = num_steps(data.num_clips, training)
    dataset = Epoch(data.load, data.num_clips, training.batch_size, seed, epoch, steps)
    order, workers = range(first, len(dataset)), training.loader_workers
    loader = iter(DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers, pin_memory=pin))
    batches = loader if workers else prefetch(loader)
    for batch, seconds in phases.timed_items("wait", batches):
        phases.add_worker(seconds)
        if isinstance(batch, Exception):
            raise batch
        yield batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move each part of a batch to the device; a named tuple stays one."""
    moved = [values.to(device, non_blocking=True) for values in batch]
    return batch._make(moved) if hasattr(batch, "_make") else tuple(moved)
