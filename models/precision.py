"""How exactly a network computes: float32, TensorFloat-32 on GPUs, or bfloat16 under autocast."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

# "tf32": float32 whose convolutions and matrix products keep 10 bits behind the point, on GPUs that can; elsewhere
# float32. "bfloat16" runs the network under autocast; objectives and losses are in float32
Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TensorFloat-32 inside, or forbid it, backward passes included; PyTorch allows it in convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
