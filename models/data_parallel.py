"""Data-parallel training that equals training in one process: dropout and batch-norm over the global batch.

Each process (rank) runs its shard of the clips of a global batch. torch itself draws dropout per process, and its
SyncBatchNorm runs on GPUs only.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Shard:
    """Clips rank, rank + world_size, rank + 2 world_size, ... of a global batch of num_clips.

    A process without any still takes part in the collective operations: it runs clip 0 as padding, which has no weight
    in loss and statistics.
    """

    num_clips: int
    rank: int = 0
    world_size: int = 1

    @property
    def clips(self) -> range:
        return range(self.rank, self.num_clips, self.world_size)

    @property
    def padded(self) -> range:
        """Numbers of the clips that this process runs through the network: its own, or the padding."""
        return self.clips or range(1)


def globalise_dropout(network: nn.Module) -> None:
    """Replace dropout and stochastic depth, in place, so that masks are drawn for the global batch."""
    from torchvision.ops import StochasticDepth  # takes more than a second to import

    _replace(network, (nn.Dropout, StochasticDepth), GlobalDropout)


def synchronise_batchnorm(network: nn.Module) -> None:
    """Replace batch-norm, in place and under the same state names, by statistics over the global batch."""
    _replace(network, _BatchNorm, GlobalBatchNorm)


def set_shard(network: nn.Module, shard: Shard) -> None:
    """Tell the network's global layers which clips of the next batch this process runs."""
    for module in network.modules():
        if isinstance(module, GlobalDropout | GlobalBatchNorm):
            module.shard = shard


def _replace(network: nn.Module, old: type | tuple[type, ...], new: type) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, old) and not isinstance(child, new):
                setattr(parent, name, new(child))


class GlobalDropout(nn.Module):
    """Draws the mask of `dropout`, a layer without state, for the global batch, and applies this process's part.

    All processes must have the same state of the random generator.
    """

    def __init__(self, dropout: nn.Module):
        super().__init__()
        self.dropout, self.shard = dropout, None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...), or (B K, ...) as of transformers that fold time into the batch; B the clips of this process."""
        if not self.training or not self.dropout.p:
            return x
        clips = list(self.shard.padded)
        each, left = divmod(len(x), len(clips)) if len(x) > 1 else (1, 0)
        if left:
            raise ValueError(f"dropout of {tuple(x.shape)}: expected as many rows for each of the {len(clips)} clips")
        # stochastic depth keeps or drops a whole clip
        shape = (each, *x.shape[1:]) if isinstance(self.dropout, nn.Dropout) else (1,) * x.dim()
        factors = self.dropout(x.new_ones(self.shard.num_clips, *shape))[clips]  # B, K or 1, ...
        return x * factors.expand(-1, each, *(-1,) * (x.dim() - 1)).flatten(0, 1)


class GlobalBatchNorm(_BatchNorm):
    """Batch-norm over the clips of all processes of the default group, without padding; in eval mode plain batch-norm.

    Shares the parameters and running statistics of the layer it replaces.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        if not norm.affine or not norm.track_running_stats or norm.momentum is None:
            raise ValueError(f"{norm}: only batch-norm with weights, running statistics and a momentum is synchronised")
        self.weight, self.bias, self.shard = norm.weight, norm.bias, None
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.train(norm.training)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions after (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...), B the clips that this process runs."""
        if not self.training:
            return super().forward(x)
        y, mean, var, number = _Normalise.apply(x, self.weight, self.bias, self.eps, bool(self.shard.clips))
        unbiased = var * (number / (number - 1).clamp(min=1))  # as torch keeps it
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """(x, weight, bias, eps, counted) to x normalised, and the global batch's mean, variance (C,) and count ().

    Ioffe and Szegedy, Batch Normalization (2015), with sums over processes. `counted` is False for padding.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, counted: bool):
        dims = (0, *range(2, x.dim()))
        var, mean = (values.double() for values in torch.var_mean(x.float(), dims, correction=0))  # C
        number = mean.new_full((1,), counted * x.numel() // x.shape[1])  # values of a channel in this process
        # in double, for the variance is a difference of sums
        sums = torch.cat([mean * number, (var + mean.square()) * number, number])  # 2 C + 1
        dist.all_reduce(sums)
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        var = (square - mean.square()).clamp(min=0)
        mean, var, number = mean.float(), var.float(), sums[-1].float()
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), number)
        ctx.counted, ctx.dims = counted, dims
        ctx.mark_non_differentiable(mean, var, number)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, number

    @staticmethod
    def backward(ctx, grad: Tensor, *_):
        x, weight, mean, scale, number = ctx.saved_tensors
        mean, scale = (values.view(-1, *(1,) * (x.dim() - 2)) for values in (mean, scale))  # C, 1, ...
        grad, normalised = grad.float(), (x - mean) * scale  # B, C, ...
        sums = torch.stack([grad.sum(ctx.dims), (grad * normalised).sum(ctx.dims)])  # 2, C
        means = sums.clone()
        dist.all_reduce(means)
        means = (means / number).view(2, *mean.shape)
        # padding has no part in the statistics, so nothing flows back through them
        inner = grad - means[0] - normalised * means[1] if ctx.counted else grad
        return (inner * weight.view(mean.shape) * scale).to(x.dtype), sums[1], sums[0], None, None
