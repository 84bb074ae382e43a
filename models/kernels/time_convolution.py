"""Convolution along time alone, with a weight gradient made of matrix products.

The forward pass and the input gradient are `conv2d` on views. Its weight gradient for kernels of k x 1 takes two to
seven times as long on a CPU as the k matrix products that it amounts to; so these are written out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.convolution import input_gradient, same_precision


def convolve_time(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Convolve the time axis of (B, C, T, H * W) with (C_out, C, k, 1): (B, C_out, T_out, H * W)."""
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
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            stride, padding = ctx.geometry
            to_x = input_gradient(gradient, x, weight, (stride, 1), (padding, 0))
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(gradient, x, weight, *ctx.geometry)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum((0, 2, 3))
        return to_x, to_weight, to_bias, None, None


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """(C_out, C, k, 1): for each tap, the output's gradient times the inputs that the tap met, padding left out."""
    frames, steps = x.shape[2], gradient.shape[2]
    by_tap = gradient.new_empty(weight.shape[0], weight.shape[2], weight.shape[1])  # the order of packed weights
    for tap in range(weight.shape[2]):
        first = max(0, -((tap - padding) // stride))  # the first output step whose input lies in the clip
        last = min(steps, (frames - 1 - tap + padding) // stride + 1)
        if first >= last:
            by_tap[:, tap] = 0
        else:
            start = first * stride + tap - padding
            met = x[:, :, start : start + (last - first - 1) * stride + 1 : stride]
            torch.mm(_rows(gradient[:, :, first:last]).t(), _rows(met), out=by_tap[:, tap])
    return by_tap.transpose(1, 2).unsqueeze(3)


def _rows(x: Tensor) -> Tensor:
    """(B, C, T, H * W) to (B * T * H * W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
