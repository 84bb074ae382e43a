"""I3D's normalisation, first convolution, ReLU and max pool with batch-norm folded, for running only.

The 3-D convolution is a 2-D one over stacked frames, on GPUs over pairs of rows and columns of them; its input gradient
is written out. For tolerances see `FrozenI3D`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.frozen.paired_convolution import Geometry, PairedConvolution, paired_weight
from models.kernels.convolution import input_gradient, same_precision, to_images, to_volumes


class FrozenStem(nn.Module):
    """The function of an I3D's normalisation, folded first convolution, ReLU and pool.

    The division by the standard deviation is part of the weights. The mean is subtracted from the video, for the
    convolution pads with zeros, which stand for the mean colour. The ReLU comes after the pool: both are monotonic, so
    their order does not matter, and there it has 1/8 of the work.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        conv, pool = network.conv1, network.maxpool
        self.geometry = Geometry(conv.kernel_size, conv.stride, conv.padding)
        self.pool = (pool.kernel_size, pool.stride, pool.padding)
        weight = conv.weight.detach() / network.std.view(3, 1, 1, 1)  # C_out, 3, time, h, w
        self.register_buffer("weight", weight.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        self.register_buffer("paired", paired_weight(weight, self.geometry))
        self.register_buffer("bias", conv.bias.detach().clone())
        self.register_buffer("mean", network.mean.clone())

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, H, W, 3), RGB in [0, 1], to (B, C, T', H', W') in channels_last_3d order."""
        if video.is_cuda:
            return self.over_pairs(video)
        with same_precision(video - self.mean, self.weight, self.bias) as (centred, weight, bias):
            x = _Convolution.apply(centred, weight, bias, self.geometry)
            return F.relu(F.max_pool3d(x, *self.pool))

    def over_pairs(self, video: Tensor) -> Tensor:
        """Compute `forward` as it is fast on a GPU; the bias is added after the pool, too."""
        with same_precision(self.paired, self.bias) as (weight, bias):
            x = F.max_pool3d(PairedConvolution.apply(video, self.mean, weight, self.geometry), *self.pool)
            return F.relu(x + bias.view(-1, 1, 1, 1))


class _Convolution(torch.autograd.Function):
    """A 3-D convolution as a 2-D one over `time` stacked frames, differentiated with respect to the frames only."""

    @staticmethod
    def forward(ctx, video, weight, bias, geometry):
        (time, *_), stride, padding = geometry
        batch, frames = video.shape[:2]
        x = F.pad(video, (0,) * 6 + (padding[0],) * 2).unfold(1, time, stride[0])  # B, T_out, H, W, 3, time
        x = x.flatten(4).flatten(0, 1).permute(0, 3, 1, 2)  # B * T_out, 3 * time, H, W
        out = F.conv2d(x, weight, bias, stride[1:], padding[1:])  # B * T_out, C, H', W'
        ctx.save_for_backward(x, weight)
        ctx.geometry = batch, frames, time, stride, padding
        return to_volumes(out, batch)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        batch, frames, time, stride, padding = ctx.geometry
        stacked = input_gradient(to_images(gradient), x, weight, stride[1:], padding[1:])  # B * T_out, 3 * time, H, W
        # frame by frame and colour by colour, so that the sum runs along whole planes
        planes = stacked.contiguous().unflatten(1, (3, time)).unflatten(0, (batch, -1))  # B, T_out, 3, time, H, W
        steps = planes.shape[1]
        padded = planes.new_zeros(batch, frames + 2 * padding[0], 3, *x.shape[2:])  # B, T + padding, 3, H, W
        for t in range(time):
            padded[:, t : t + stride[0] * steps : stride[0]] += planes[:, :, :, t]
        return padded[:, padding[0] : padding[0] + frames].permute(0, 1, 3, 4, 2), None, None, None
