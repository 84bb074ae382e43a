"""Which of torchrun's processes this is. Does not import torch, so that --help stays quick."""

import os


def is_first_process() -> bool:
    """Whether this process says what is done: the first that torchrun started, or one started without torchrun."""
    return os.environ.get("RANK", "0") == "0"
