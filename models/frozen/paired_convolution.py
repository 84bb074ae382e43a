"""The stem's convolution over pairs of rows and columns (space to depth), which GPUs compute faster.

A kernel with stride 2 over 3 colours becomes one with stride 1 over the 12 values of 2 x 2 pixels. With the frames that
it covers stacked, and padded to a multiple of 8 channels, tensor cores compute it and its input gradient; of the 15
channels of the plain way cuDNN makes a copy first. It equals `nn.Conv3d` (tests/models/test_paired_convolution.py).
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.kernels.convolution import input_gradient, to_images, to_volumes

VALUES = 12  # of 2 x 2 pixels: row, column, colour


class Geometry(NamedTuple):
    """(time, rows, columns) of a convolution with a stride of 2 over rows and columns, which pads both."""

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]

    def front(self, axis: int) -> int:
        """Count the zeros before the first row or column: the padding, made even."""
        return self.padding[axis] + self.padding[axis] % 2

    def pairs(self, axis: int) -> int:
        """Count the pairs that the kernel covers, with a row or column of zeros where it begins at an odd one."""
        return (self.kernel[axis] + self.padding[axis] % 2 + 1) // 2

    def steps(self, axis: int, length: int) -> int:
        """Count the outputs along an axis."""
        return (length + 2 * self.padding[axis] - self.kernel[axis]) // self.stride[axis] + 1


def paired_weight(weight: Tensor, geometry: Geometry) -> Tensor:
    """Reorder a weight (C_out, 3, time, h, w) to (C_out, time * 12 and zeros, pairs, pairs), channels last."""
    margins = []  # of the last axis first, as F.pad has them
    for axis in (2, 1):
        before = geometry.padding[axis] % 2
        margins += [before, 2 * geometry.pairs(axis) - geometry.kernel[axis] - before]
    paired = F.pad(weight, margins).unflatten(4, (-1, 2)).unflatten(3, (-1, 2))  # C_out, 3, time, h, 2, w, 2
    paired = paired.permute(0, 3, 5, 2, 4, 6, 1).flatten(3)  # C_out, h, w, time * 12
    return F.pad(paired, (0, -paired.shape[3] % 8)).permute(0, 3, 1, 2)


class PairedConvolution(torch.autograd.Function):
    """Convolve a video (B, T, H, W, 3) less its mean colour, differentiated with respect to the video only.

    It computes in the dtype of the weight, made by `paired_weight`, sums the gradient of a frame in the video's, and
    returns (B, C_out, T', H', W') in channels_last_3d order.
    """

    @staticmethod
    def forward(ctx, video, mean, weight, geometry):
        batch, frames = video.shape[:2]
        before, steps = geometry.padding[0], geometry.steps(0, frames)
        rows, columns = (geometry.steps(axis, video.shape[axis + 1]) + geometry.pairs(axis) - 1 for axis in (1, 2))
        pairs = weight.new_zeros(batch, frames + 2 * before, rows, columns, 2, 2, 3)
        for pixels, values in _places(video, pairs, geometry):
            torch.sub(pixels, mean, out=values)
        x = weight.new_zeros(batch, steps, rows, columns, weight.shape[1])
        stacked = pairs.flatten(4).unfold(1, geometry.kernel[0], geometry.stride[0])  # B, T', h, w, 12, time
        used = VALUES * geometry.kernel[0]
        x[..., :used].unflatten(-1, (-1, VALUES)).copy_(stacked.transpose(4, 5))
        images = x.flatten(0, 1).permute(0, 3, 1, 2)  # B * T', C, h, w
        ctx.save_for_backward(images, weight)
        ctx.geometry, ctx.shape, ctx.dtype = geometry, video.shape, video.dtype
        return to_volumes(F.conv2d(images, weight), batch)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        images, weight = ctx.saved_tensors
        geometry, (batch, frames, *_) = ctx.geometry, ctx.shape
        stacked = input_gradient(to_images(gradient), images, weight, 1, 0).permute(0, 2, 3, 1)  # B * T', h, w, C
        stacked = stacked.unflatten(0, (batch, -1))
        steps, stride = stacked.shape[1], geometry.stride[0]
        sums = stacked.new_zeros(batch, frames + 2 * geometry.padding[0], *stacked.shape[2:4], VALUES, dtype=ctx.dtype)
        for time in range(geometry.kernel[0]):
            sums[:, time : time + stride * steps : stride] += stacked[..., VALUES * time : VALUES * (time + 1)]
        to_video = sums.new_empty(ctx.shape)
        for pixels, values in _places(to_video, sums.unflatten(4, (2, 2, 3)), geometry):
            pixels.copy_(values)
        return to_video, None, None, None


def _places(video: Tensor, pairs: Tensor, geometry: Geometry) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views of every second row and column of (B, T, H, W, 3), and of their places in (B, T', h, w, 2, 2, 3)."""
    time, top, left = geometry.padding[0], geometry.front(1) // 2, geometry.front(2) // 2
    for row, column in product((0, 1), (0, 1)):
        pixels = video[:, :, row::2, column::2]
        frames, height, width = pixels.shape[1:4]
        yield pixels, pairs[:, time : time + frames, top : top + height, left : left + width, row, column]
