"""Which device computes."""

import os

import torch

from pipeline.config import Config


def pick_device(config: Config) -> torch.device:
    """The config's device; `auto` is CUDA where there is one. Each process of torchrun has a GPU of its own."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(name)
