"""I3D's bottleneck block with batch-norm folded, for running only: forward and input gradient written out, in place.

Both equal the block of `nn.Conv3d` and `nn.BatchNorm3d` to 1e-6 (relative L2 in float64, weights folded in float32;
tests/models/test_frozen.py::test_block).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.kernels.convolution import input_gradient, same_precision, to_images, to_volumes


class FrozenBottleneck(nn.Module):
    """The function of an `i3d.Bottleneck` with folded batch-norm; (B, C, T, H, W) in channels_last_3d order.

    Its weights are buffers, packed for 2-D convolutions and matrix products, and get no gradients.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.stride = block.conv2.stride[2]
        shortcut, bias = None, block.conv3.bias
        if block.downsample is not None:
            shortcut = block.downsample[0].weight.flatten(1)
            bias = bias + block.downsample[0].bias  # both are added to the same sum
        packed = {
            "time": block.conv1.weight.squeeze(4).contiguous(memory_format=torch.channels_last),  # inner, C, 3, 1
            "time_bias": block.conv1.bias,
            "space": block.conv2.weight.squeeze(2).contiguous(memory_format=torch.channels_last),  # inner, inner, 3, 3
            "space_bias": block.conv2.bias,
            "point": block.conv3.weight.flatten(1),  # C_out, inner
            "point_bias": bias,
            "shortcut": shortcut,  # C_out, C
        }
        for name, value in packed.items():
            self.register_buffer(name, None if value is None else value.detach().clone())
        self.names = tuple(packed)

    def forward(self, x: Tensor) -> Tensor:
        with same_precision(x, *(getattr(self, name) for name in self.names)) as (x, *weights):
            return _Block.apply(x.contiguous(memory_format=torch.channels_last_3d), self.stride, *weights)


class _Block(torch.autograd.Function):
    """relu(point(relu(space(relu(time(x))))) + shortcut(x)), differentiated with respect to x only."""

    @staticmethod
    def forward(ctx, x, stride, time, time_bias, space, space_bias, point, point_bias, shortcut):
        batch, _, frames, height, width = x.shape
        a = F.conv2d(x.flatten(3), time, time_bias, padding=(1, 0)).relu_()  # B, inner, T, H * W
        a = to_images(a.unflatten(3, (height, width)))  # B * T, inner, H, W
        b = F.conv2d(a, space, space_bias, stride, padding=1).relu_()  # B * T, inner, H', W'
        rows = _rows(x if stride == 1 else x[..., ::stride, ::stride])  # B * T * H' * W', C
        out = rows + point_bias if shortcut is None else torch.addmm(point_bias, rows, shortcut.t())
        out.addmm_(_rows(to_volumes(b, batch)), point.t()).relu_()  # B * T * H' * W', C_out
        ctx.save_for_backward(x, a, b, out, time, space, point, shortcut)
        ctx.stride = stride
        return out.view(batch, frames, *b.shape[2:], -1).permute(0, 4, 1, 2, 3)  # B, C_out, T, H', W'

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, a, b, out, time, space, point, shortcut = ctx.saved_tensors
        batch, channels, frames, height, width = x.shape
        gradient = torch.ops.aten.threshold_backward(_rows(gradient), out, 0)  # a new tensor, not the caller's
        to_b = (gradient @ point).view(b.shape[0], *b.shape[2:], -1).permute(0, 3, 1, 2)  # B * T, inner, H', W'
        to_a = input_gradient(_relu_gradient(to_b, b), a, space, ctx.stride, 1)  # B * T, inner, H, W
        to_a = to_volumes(_relu_gradient(to_a, a), batch).flatten(3)  # B, inner, T, H * W
        to_x = input_gradient(to_a, x.flatten(3), time, 1, (1, 0)).unflatten(3, (height, width))  # B, C, T, H, W
        by_shortcut = gradient if shortcut is None else gradient @ shortcut  # B * T * H' * W', C
        strided = to_x[..., :: ctx.stride, :: ctx.stride]
        strided += by_shortcut.view(batch, frames, *b.shape[2:], channels).permute(0, 4, 1, 2, 3)
        return to_x, *[None] * 8


def _rows(x: Tensor) -> Tensor:
    """Reorder (B, C, T, H, W) to (B * T * H * W, C); a view in channels_last_3d order."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])


def _relu_gradient(gradient: Tensor, out: Tensor) -> Tensor:
    """Set, in place, the gradient to 0 where the ReLU's output `out` is 0."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, out, 0, grad_input=gradient)
