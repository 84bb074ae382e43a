"""Convolution along time, k x 1 x 1. Its weight gradient is k matrix products, for conv2d's is slow on a CPU.

It equals that of `nn.Conv3d` to 1e-7 in float64, strides, padding and clips shorter than the kernel included
(tests/models/test_i3d.py::test_split_convolution_has_the_gradients_of_...).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.convolution import input_gradient, same_precision


def convolve_time(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Convolve the time axis of x (B, C, T, H * W) with weight (C_out, C, k, 1) into (B, C_out, T_out, H * W)."""
    if x.device.type != "cpu" or not weight.requires_grad:
        return F.conv2d(x, weight, bias, (stride, 1), (padding, 0))
    with same_precision(x, weight, bias) as (x, weight, bias):
        return _TimeConvolution.apply(x, weight, bias, stride, padding)


class _TimeConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, bias, (stride, 1), (padding, 0))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = input_gradient(gradient, x, weight, (stride, 1), (padding, 0))
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(gradient, x, weight, stride, padding)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_weight, to_bias, None, None


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Multiply, for each tap of the kernel, the output's gradient with the inputs under the tap, padding left out.

    From (B, C_out, T_out, H * W) and (B, C, T, H * W) to (C_out, C, k, 1).
    """
    frames, steps = x.shape[2], gradient.shape[2]
    by_tap = gradient.new_empty(weight.shape[0], weight.shape[2], weight.shape[1])  # C_out, k, C: as packed
    for tap in range(weight.shape[2]):
        first = max(0, -((tap - padding) // stride))  # the first output step whose input lies in the clip
        last = min(steps, (frames - 1 - tap + padding) // stride + 1)
        if first >= last:
            by_tap[:, tap] = 0
        else:
            start = first * stride + tap - padding
            inputs = x[:, :, start : start + (last - first - 1) * stride + 1 : stride]
            torch.mm(_rows(gradient[:, :, first:last]).t(), _rows(inputs), out=by_tap[:, tap])
    return by_tap.transpose(1, 2).unsqueeze(3)


def _rows(x: Tensor) -> Tensor:
    """Reorder (B, C, T, H * W) to (B * T * H * W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
