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

from models.shared_batch import BatchShare, share_dropout, synchronise_batchnorm


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


def _device() -> torch.device:
    """Of the tensors that processes exchange."""
    on_cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """This process's number among `size` processes; by itself, a team of one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that locks the folder and writes the files."""
        return self.rank == 0

    def share(self, num_clips: int) -> BatchShare:
        """This process's clips of a batch: every size-th."""
        return BatchShare(num_clips, self.rank, self.size)

    def weight(self, num_clips: int) -> float:
        """Factor of the mean loss over `share`: averaged over processes, it is the mean over the num_clips."""
        return self.size * len(self.share(num_clips).own) / num_clips

    def wrap(self, network: nn.Module, synchronise: bool) -> nn.Module:
        """The network to run forward: its gradients become averages over processes, its weights start as rank 0's.

        Dropout is drawn for the whole batch. So are the statistics of batch-norm where `synchronise` says so; else each
        process normalises its own share, and the running statistics that are saved are those of rank 0's clips.
        """
        share_dropout(network)
        if self.size == 1:
            return network
        if synchronise:
            synchronise_batchnorm(network)
        devices = [torch.cuda.current_device()] if next(network.parameters()).is_cuda else None
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

    def leaders(self, value: bool) -> bool:
        """What the first process says, in each: others may see a shared folder a moment later."""
        return bool(self.send(bytes([value]))[0])

    def send(self, data: bytes | None) -> bytes:
        """The bytes that the first process has, in each."""
        if self.size == 1:
            return data
        size = torch.tensor([len(data) if self.leads else 0], device=_device())
        dist.broadcast(size, 0)
        values = torch.empty(int(size), dtype=torch.uint8, device=_device())
        if self.leads and data:
            values.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(values, 0)
        return values.cpu().numpy().tobytes()

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a CPU tensor over processes, in each."""
        if self.size == 1:
            return value
        total = value.to(_device(), copy=True)
        dist.all_reduce(total)
        return total.cpu()

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()
