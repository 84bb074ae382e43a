"""3-D convolution as 2-D ones on views of a single channels-last buffer.

A tensor (B, C, T, H, W) in `torch.channels_last_3d` order is one buffer B, T, H, W, C. Of that buffer, the frames
(B*T, C, H, W) and the time axis against all pixels (B, C, T, H*W) are both plain views in `torch.channels_last` order.
So a kernel of 1 x k x k or k x 1 x 1 needs nothing but `conv2d`, which is better tuned than `conv3d`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.time_convolution import convolve_time


class SplitConv3d(nn.Conv3d):
    """`nn.Conv3d` computed with `conv2d`: same parameters, same state dict, same numbers up to rounding.

    Takes and returns (B, C, T, H, W) in channels_last_3d order; any other order is right too, but is copied.
    A kernel of 1 x k x k or k x 1 x 1 works on views, and 1 x 1 x 1 is a matrix product; any other stacks the frames it
    covers as channels, once.
    Dilation, groups and padding other than zeros are not offered.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        time, height, width = self.kernel_size
        if self.kernel_size == self.stride == (1, 1, 1) and self.padding == (0, 0, 0):
            rows = F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)  # B, T, H, W, C_out
            return rows.permute(0, 4, 1, 2, 3)
        if time == 1 and self.stride[0] == 1 and self.padding[0] == 0:
            return _over_frames(x, self._conv2d, self.weight.squeeze(2), self.stride[1:], self.padding[1:])
        if (height, width) == (1, 1) and self.stride[1:] == (1, 1) and self.padding[1:] == (0, 0):
            planes = convolve_time(x.flatten(3), self.weight.squeeze(4), self.bias, self.stride[0], self.padding[0])
            return planes.unflatten(3, x.shape[3:])
        stacked = _stack_frames(x, time, self.stride[0], self.padding[0])  # B, C * time, T_out, H, W
        return _over_frames(stacked, self._conv2d, self.weight.flatten(1, 2), self.stride[1:], self.padding[1:])

    def _conv2d(self, x: Tensor, weight: Tensor, stride: tuple, padding: tuple) -> Tensor:
        return F.conv2d(x, weight, self.bias, stride, padding)


def _over_frames(x: Tensor, function, *args) -> Tensor:
    """Apply a function of images to every frame of (B, C, T, H, W)."""
    frames = function(x.transpose(1, 2).flatten(0, 1), *args)  # B * T, C_out, H_out, W_out
    return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def _stack_frames(x: Tensor, time: int, stride: int, padding: int) -> Tensor:
    """Put the `time` frames under the kernel side by side: (B, C, T, H, W) to (B, C * time, T_out, H, W)."""
    x = F.pad(x, (0, 0, 0, 0, padding, padding)).unfold(2, time, stride)  # B, C, T_out, H, W, time
    return x.permute(0, 2, 3, 4, 1, 5).flatten(4).permute(0, 4, 1, 2, 3)
