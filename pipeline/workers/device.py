"""Which device computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.config import Config
from pipeline.errors import StageError


def pick_device(config: Config) -> torch.device:
    """The config's device; `auto` is CUDA where there is one. Each process of torchrun has a GPU of its own.

    Raises:
        StageError: the device is not there.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StageError(f"device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


@contextmanager
def cpu_threads(device: torch.device, number: int) -> Iterator[None]:
    """Where the CPU computes, so many torch threads inside, as many as before outside."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """So many torch threads inside, as many as before outside: the process may be anybody's. None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
