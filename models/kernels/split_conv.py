"""A 3-D convolution computed as 2-D ones on views of one channels-last buffer, for conv2d is better tuned than conv3d.

It equals `nn.Conv3d`: outputs in float32 to 1e-5, outputs and all gradients in float64 to 1e-7
(tests/models/test_i3d.py::test_split_convolution_is_the_3d_convolution and ..._has_the_gradients_of_...).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.convolution import to_images, to_volumes
from models.kernels.time_convolution import convolve_time


class SplitConv3d(nn.Conv3d):
    """`nn.Conv3d` computed with `conv2d`: same parameters, same state dict, same numbers up to rounding.

    Takes and returns (B, C, T, H, W). In channels_last_3d order, kernels 1 x k x k and k x 1 x 1 work on views and
    1 x 1 x 1 is a matrix product. Other kernels stack the frames they cover as channels, which copies; other orders are
    copied, too. Dilation, groups and padding with anything but zeros are not offered.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, bias=True):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        time, height, width = self.kernel_size
        if self.kernel_size == self.stride == (1, 1, 1) and self.padding == (0, 0, 0):
            rows = F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)  # B, T, H, W, C_out
            return rows.permute(0, 4, 1, 2, 3)  # B, C_out, T, H, W
        if time == 1 and self.stride[0] == 1 and self.padding[0] == 0:
            return self._over_images(x, self.weight.squeeze(2))
        if (height, width) == (1, 1) and self.stride[1:] == (1, 1) and self.padding[1:] == (0, 0):
            planes = convolve_time(x.flatten(3), self.weight.squeeze(4), self.bias, self.stride[0], self.padding[0])
            return planes.unflatten(3, x.shape[3:])  # B, C_out, T_out, H, W
        x = F.pad(x, (0,) * 4 + (self.padding[0],) * 2).unfold(2, time, self.stride[0])  # B, C, T_out, H, W, time
        x = x.permute(0, 2, 3, 4, 1, 5).flatten(4).permute(0, 4, 1, 2, 3)  # B, C * time, T_out, H, W
        return self._over_images(x, self.weight.flatten(1, 2))

    def _over_images(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve every frame of (B, C, T, H, W) with weight (C_out, C, h, w)."""
        images = F.conv2d(to_images(x), weight, self.bias, self.stride[1:], self.padding[1:])  # B * T, C_out, H', W'
        return to_volumes(images, x.shape[0])
