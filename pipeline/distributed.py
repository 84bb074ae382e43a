"""Several processes that train one network together, one a device, as torchrun starts them."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def joined(device: torch.device) -> Iterator["Team"]:
    """Meet the other processes that torchrun's environment names; without WORLD_SIZE > 1, be a team of one.

    Processes talk through NCCL on CUDA and through gloo on the CPU. A process that fails leaves without a goodbye:
    torchrun sees it end and ends the others.
    """
    if alone():
        yield own_team()
        return
    if not dist.is_initialized():  # once a process, however many networks it trains
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    try:
        yield own_team()
    except BaseException:
        atexit.unregister(dist.destroy_process_group)  # it may wait for the others, who wait for us
        raise


def alone() -> bool:
    """Whether nobody has started several processes for one training."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def own_team() -> "Team":
    """The team this process has joined; of one where it has joined none."""
    return Team(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Team()


@dataclass(frozen=True)
class Team:
    """This process's number among `size` processes; by itself, a team of one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that locks the folder and writes the files."""
        return self.rank == 0

    def share(self, batch: list[int]) -> list[int]:
        """This process's clips of a batch: every size-th.

        Where a short batch leaves none, its first clip, of `weight` 0, for every process must take part in every step.
        """
        return batch[self.rank :: self.size] or batch[:1]

    def weight(self, num_clips: int) -> float:
        """Factor of the mean loss over `share`: averaged over processes, it is the mean over the num_clips."""
        return self.size * len(range(self.rank, num_clips, self.size)) / num_clips

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network to run forward: its gradients become averages over processes, its weights start as rank 0's.

        On CUDA, batch-norm takes its statistics over the whole batch (it becomes SyncBatchNorm, in place, under the
        same state names). PyTorch has none for the CPU: there each process normalises its own share, and the running
        statistics that are saved are those of rank 0's clips.
        """
        if self.size == 1:
            return network
        on_cuda = next(network.parameters()).is_cuda
        if on_cuda:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        devices = [torch.cuda.current_device()] if on_cuda else None
        return DistributedDataParallel(network, devices, broadcast_buffers=False)

    def adding(self, network: nn.Module):
        """Context of a wrapped network's step that only adds up gradients: processes do not exchange them yet."""
        return nullcontext() if self.size == 1 else network.no_sync()

    def mean(self, value: Tensor) -> float:
        """Average of a scalar over processes, the same number in each."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return float(value) / self.size

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()
