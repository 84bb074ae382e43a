"""Which device computes, and how long it takes."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import StageError


def pick_device(name: str) -> torch.device:
    """Return a device by torch's name, such as "cuda:1"; "auto" is CUDA where there is one.

    With "cuda", each process of torchrun gets a GPU of its own. StageError where the device is not there.
    """
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
    """Use this number of torch threads inside, where the CPU computes; as many as before outside."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Time calls, each until the device has finished; one call should have gone before."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
