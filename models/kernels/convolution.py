"""What passes written by hand share: input gradients of convolutions, and the precision of autocast."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int | tuple, padding: int | tuple) -> Tensor:
    """The gradient of conv2d with respect to its input, from the gradient of its output.

    As `torch.nn.grad.conv2d_input`, which would copy a made-up input; of x only shape and order count.
    """
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, _pair(stride), _pair(padding), (1, 1), False, (0, 0), 1, (True, False, False)
    )[0]


@contextmanager
def same_precision(*tensors: Tensor | None) -> Iterator[list[Tensor | None]]:
    """Inside autocast, its precision for all tensors, and autocast off: steps in place and `out=` bypass it."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        yield list(tensors)
        return
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        yield [value if value is None else value.to(dtype) for value in tensors]
