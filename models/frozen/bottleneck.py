"""A bottleneck block that is only run, never trained: both passes written out, each step in as few passes as it takes.

Autograd would keep a fresh tensor for every ReLU and sum, and add up gradients in further ones. Here what can happen in
place does, and the backward pass computes the gradient of the input and nothing else.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.kernels.convolution import input_gradient, same_precision


class FrozenBottleneck(nn.Module):
    """The function of an `i3d.Bottleneck` whose batch-norms are folded; (B, C, T, H, W) in channels_last_3d order.

    Its weights are buffers packed for 2-D convolutions and matrix products, and get no gradients.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.stride = block.conv2.stride[2]
        bias = block.conv3.bias
        if block.downsample is not None:
            bias = bias + block.downsample[0].bias  # both are added to the same sum
        packed = {
            "time": _channels_last(block.conv1.weight.squeeze(4)),  # inner, C, 3, 1
            "time_bias": block.conv1.bias,
            "space": _channels_last(block.conv2.weight.squeeze(2)),  # inner, inner, 3, 3
            "space_bias": block.conv2.bias,
            "point": block.conv3.weight.flatten(1),  # C_out, inner
            "point_bias": bias,
            "shortcut": None if block.downsample is None else block.downsample[0].weight.flatten(1),  # C_out, C
        }
        for name, value in packed.items():
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        names = ("time", "time_bias", "space", "space_bias", "point", "point_bias", "shortcut")
        with same_precision(x, *(getattr(self, name) for name in names)) as (x, *weights):
            return _Block.apply(x.contiguous(memory_format=torch.channels_last_3d), self.stride, *weights)


class _Block(torch.autograd.Function):
    """relu(point(relu(space(relu(time(x))))) + shortcut(x)), differentiated with respect to x only."""

    @staticmethod
    def forward(ctx, x, stride, time, time_bias, space, space_bias, point, point_bias, shortcut):
        batch, _, frames, height, width = x.shape
        a = F.conv2d(x.flatten(3), time, time_bias, padding=(1, 0)).relu_()  # B, inner, T, H * W
        a = _images(a.unflatten(3, (height, width)))  # B * T, inner, H, W
        b = F.conv2d(a, space, space_bias, stride, padding=1).relu_()
        rows = _rows(x if stride == 1 else x[..., ::stride, ::stride])  # B * T * H' * W', C
        out = rows + point_bias if shortcut is None else torch.addmm(point_bias, rows, shortcut.t())
        out.addmm_(_rows(_volumes(b, batch)), point.t()).relu_()
        ctx.save_for_backward(x, a, b, out, time, space, point, shortcut)
        ctx.stride = stride
        return out.view(batch, frames, *b.shape[2:], -1).permute(0, 4, 1, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, a, b, out, time, space, point, shortcut = ctx.saved_tensors
        batch, channels, frames, height, width = x.shape
        gradient = torch.ops.aten.threshold_backward(_rows(gradient), out, 0)  # the caller's stays as it is
        to_b = (gradient @ point).view(b.shape[0], *b.shape[2:], -1).permute(0, 3, 1, 2)
        to_a = input_gradient(_masked(to_b, b), a, space, ctx.stride, 1)
        to_a = _volumes(_masked(to_a, a), batch).flatten(3)  # B, inner, T, H * W
        to_x = input_gradient(to_a, x.flatten(3), time, 1, (1, 0)).unflatten(3, (height, width))
        by_shortcut = gradient if shortcut is None else gradient @ shortcut
        kept = to_x[..., :: ctx.stride, :: ctx.stride]
        kept += by_shortcut.view(batch, frames, *b.shape[2:], channels).permute(0, 4, 1, 2, 3)
        return to_x, *[None] * 8


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _images(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B * T, C, H, W), a view in channels-last order."""
    return x.transpose(1, 2).flatten(0, 1)


def _volumes(x: Tensor, batch: int) -> Tensor:
    """(B * T, C, H, W) to (B, C, T, H, W), a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """(B, C, T, H, W) to (B * T * H * W, C), a view where the order is channels-last."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])


def _masked(gradient: Tensor, out: Tensor) -> Tensor:
    """The gradient behind a ReLU whose output was `out`, in place."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, out, 0, grad_input=gradient)
