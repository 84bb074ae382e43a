"""The machine: its name, and how many multiply-adds a second its own matrix product reaches."""

import platform
import time
from pathlib import Path

import torch

SIZES = (1024, 2048, 4096)


def description() -> str:
    """One line for the table's caption."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, float32"


def product_flops(size: int) -> float:
    """FLOP a second of one float32 product of two size x size matrices (2 * size ** 3 FLOP)."""
    a, b, out = (torch.randn(size, size, generator=torch.Generator().manual_seed(i)) for i in range(3))
    start = time.perf_counter()
    torch.mm(a, b, out=out)
    return 2 * size**3 / (time.perf_counter() - start)
