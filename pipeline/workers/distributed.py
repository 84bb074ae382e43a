"""Data-parallel training and evaluation: one process a device, started by torchrun."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.data_parallel import Shard, globalise_dropout, synchronise_batchnorm


@contextmanager
def join_world(device: torch.device) -> Iterator["World"]:
    """Start torch's default process group as torchrun's environment says; without torchrun, a world of one process.

    A process that fails ends without waiting for the others; torchrun then ends them.
    """
    if is_single_process():
        yield current_world()
        return
    if not dist.is_initialized():  # once a process, however many networks it trains
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    try:
        yield current_world()
    except BaseException:
        atexit.unregister(dist.destroy_process_group)  # it could wait for processes that wait for this one
        raise


def is_single_process() -> bool:
    """Return whether this process is the only one of its training."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def current_world() -> "World":
    """Return the world that this process has joined; one of a single process where it has joined none."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


@dataclass(frozen=True)
class World:
    """This process's rank among the `size` processes of a training, and what they exchange.

    Every process must call the collective methods: `mean`, `sum`, `broadcast`, `barrier`.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process (rank 0), which locks the folder and writes the files."""
        return self.rank == 0

    def shard(self, num_clips: int) -> Shard:
        """Return this process's clips of a global batch: every size-th."""
        return Shard(num_clips, self.rank, self.size)

    def loss_weight(self, num_clips: int) -> float:
        """Return the factor of the shard's mean loss with which the average over processes is the global mean."""
        return self.size * len(self.shard(num_clips).clips) / num_clips

    def wrap(self, network: nn.Module, synchronise: bool) -> nn.Module:
        """Return the network to run forward: gradients are averaged over processes, weights start as rank 0's.

        Dropout is drawn for the global batch. Batch-norm takes its statistics over the global batch with `synchronise`,
        else over each process's shard; the running statistics that are saved are then rank 0's.
        """
        globalise_dropout(network)
        if self.size == 1:
            return network
        if synchronise:
            synchronise_batchnorm(network)
        devices = [torch.cuda.current_device()] if next(network.parameters()).is_cuda else None
        return DistributedDataParallel(network, devices, broadcast_buffers=False)

    def no_sync(self, network: nn.Module):
        """Return a context in which a wrapped network's backward adds up gradients without exchanging them."""
        return nullcontext() if self.size == 1 else network.no_sync()

    def mean(self, value: Tensor) -> float:
        """Average a scalar over processes; the result is the same number in each."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return float(value) / self.size

    def sum(self, value: Tensor) -> Tensor:
        """Sum a CPU tensor over processes."""
        if self.size == 1:
            return value
        device = torch.cuda.current_device() if dist.get_backend() == "nccl" else "cpu"
        total = value.to(device, copy=True)
        dist.all_reduce(total)
        return total.cpu()

    def broadcast(self, value):
        """Return the main process's value in every process: others may see changes of a shared folder later."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()
