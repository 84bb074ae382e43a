"""Which device computes."""

import torch

from pipeline.config import Config


def pick_device(config: Config) -> torch.device:
    """The config's device; `auto` is CUDA where there is one."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)
