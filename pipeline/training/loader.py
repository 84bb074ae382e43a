"""Batches of an epoch, read ahead."""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import Training
from pipeline.workers import phases
from pipeline.workers.distributed import own_team
from pipeline.workers.prefetch import buffered

Batch = tuple[Tensor, ...]


class Epoch(Dataset):
    """The batches of one epoch in their shuffled order, from the first one that is still to do.

    The order depends on seed and epoch alone, so a resumed run sees the batches an uninterrupted one would have.
    Every process of a team loads its share of each.
    """

    def __init__(self, load: Callable[[int, list[int]], Batch], num_clips: int, size: int, seed: int, epoch: int):
        order = np.random.default_rng([seed, epoch]).permutation(num_clips).tolist()
        self.batches = [order[first : first + size] for first in range(0, num_clips, size)]
        self.load, self.epoch, self.team, self.profiler = load, epoch, own_team(), phases.owner()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> tuple[Batch, phases.Seconds]:
        batch = self.batches[step]
        clips = [batch[number] for number in self.team.share(len(batch)).held]
        return phases.lent(self.profiler, lambda: self.load(self.epoch, clips), ahead=True)


def _loader(load, num_clips, training: Training, seed: int, epoch: int, step: int, device) -> Iterator[Batch]:
    """Batches of an epoch from `step` on, read ahead by workers or a thread, pinned where a GPU takes them."""
    dataset = Epoch(load, num_clips, training.batch_size, seed, epoch)
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(step, len(dataset)),
        num_workers=training.loader_workers,
        pin_memory=device.type == "cuda",
    )
    batches = iter(loader) if training.loader_workers else buffered(iter(loader))
    for batch, seconds in phases.each("wait", batches):
        phases.collect(seconds)
        yield batch
