"""Shared by the convolutions written out: layouts as views, the input gradient of conv2d, one precision for all.

`torch.channels_last_3d` order of (B, C, T, H, W) is one buffer B, T, H, W, C; the images (B * T, C, H, W) and the time
axis against all pixels (B, C, T, H * W) are views of it in `torch.channels_last` order. All here is exact.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair


def to_images(x: Tensor) -> Tensor:
    """View (B, C, T, H, W) as (B * T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def to_volumes(x: Tensor, batch: int) -> Tensor:
    """View (B * T, C, H, W) as (B, C, T, H, W)."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int | tuple, padding: int | tuple) -> Tensor:
    """Compute the gradient of conv2d with respect to its input x from the gradient of its output.

    Equals `torch.nn.grad.conv2d_input`, without its copy of the input: only shape and memory order of x are used.
    """
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, _pair(stride), _pair(padding), (1, 1), False, (0, 0), 1, (True, False, False)
    )[0]


@contextmanager
def same_precision(*tensors: Tensor | None) -> Iterator[list[Tensor | None]]:
    """Yield the tensors in autocast's precision, with autocast off: it does not see operations in place or `out=`.

    Outside autocast, yield them as they are.
    """
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        yield list(tensors)
        return
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        yield [value if value is None else value.to(dtype) for value in tensors]
