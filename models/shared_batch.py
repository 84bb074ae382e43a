"""A batch whose clips several processes hold: batch-norm and dropout that act as if one process held them all."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class BatchShare:
    """Clips first, first + step, first + 2 step, ... of a batch of num_clips.

    Where that is none, the process still takes part: with clip 0 as a stand-in, which counts for nothing.
    """

    num_clips: int
    first: int = 0
    step: int = 1

    @property
    def own(self) -> range:
        """Numbers of the clips that count."""
        return range(self.first, self.num_clips, self.step)

    @property
    def held(self) -> range:
        """Numbers of the clips that are run through the network."""
        return self.own or range(1)


def share_dropout(network: nn.Module) -> None:
    """Let dropout and stochastic depth, in place, draw for the whole batch: the same whoever holds which clip."""
    from torchvision.ops import StochasticDepth  # loads for more than a second, see backbones.py

    _replace(network, (nn.Dropout, StochasticDepth), SharedDropout)


def synchronise_batchnorm(network: nn.Module) -> None:
    """Let batch-norm, in place and under the same state names, take its statistics over the clips of all processes."""
    _replace(network, _BatchNorm, SynchronisedBatchNorm)


def tell(network: nn.Module, share: BatchShare) -> None:
    """Say which clips of the next batch this process holds."""
    for module in network.modules():
        if isinstance(module, SharedDropout | SynchronisedBatchNorm):
            module.share = share


def _replace(network: nn.Module, kind, new) -> None:
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kind) and not isinstance(child, new):
                setattr(parent, name, new(child))


class SharedDropout(nn.Module):
    """Draws what `dropout`, a layer without state, draws for the whole batch, and applies it to its own clips."""

    def __init__(self, dropout: nn.Module):
        super().__init__()
        self.dropout, self.share = dropout, None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ...), B the clips that this process holds."""
        if not self.training or not self.dropout.p:
            return x
        # stochastic depth keeps or drops a whole clip
        shape = x.shape[1:] if isinstance(self.dropout, nn.Dropout) else (1,) * (x.dim() - 1)
        factors = self.dropout(x.new_ones(self.share.num_clips, *shape))
        return x * factors[list(self.share.held)]


class SynchronisedBatchNorm(_BatchNorm):
    """Batch-norm over the clips of all processes of the default group; torch's SyncBatchNorm is for CUDA only.

    It shares the parameters and statistics of the layer it is made from. Stand-ins move no statistics. In eval mode it
    is that layer.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        if not norm.affine or not norm.track_running_stats or norm.momentum is None:
            raise ValueError(f"{norm}: only batch-norm with weights, running statistics and a momentum is synchronised")
        self.weight, self.bias, self.share = norm.weight, norm.bias, None
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.train(norm.training)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions after (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...)."""
        if not self.training:
            return super().forward(x)
        y, mean, var, number = _Normalise.apply(x, self.weight, self.bias, self.eps, bool(self.share.own))
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(
                var * (number / (number - 1).clamp(min=1)), self.momentum
            )  # unbiased, as torch keeps it
        return y


class _Normalise(torch.autograd.Function):
    """(x, weight, bias, eps, counts) to x normalised, and mean, variance (C,) and number () of what counted."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, counts: bool):
        dims = (0, *range(2, x.dim()))
        var, mean = (values.double() for values in torch.var_mean(x.float(), dims, correction=0))
        number = mean.new_full((1,), counts * x.numel() // x.shape[1])
        sums = torch.cat([mean * number, (var + mean.square()) * number, number])  # double: a difference is taken
        dist.all_reduce(sums)
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        var = (square - mean.square()).clamp(min=0)
        mean, var, number = mean.float(), var.float(), sums[-1].float()
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), number)
        ctx.counts, ctx.dims = counts, dims
        ctx.mark_non_differentiable(mean, var, number)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, number

    @staticmethod
    def backward(ctx, grad: Tensor, *_):
        x, weight, mean, scale, number = ctx.saved_tensors
        mean, factor = (values.view(-1, *(1,) * (x.dim() - 2)) for values in (mean, scale))  # over (C, ...)
        grad, normal = grad.float(), (x - mean) * factor
        sums = torch.stack([grad.sum(ctx.dims), (grad * normal).sum(ctx.dims)])
        means = sums.clone()
        dist.all_reduce(means)
        means = (means / number).view(2, *mean.shape)
        through = grad - means[0] - normal * means[1] if ctx.counts else grad  # a stand-in has moved no mean
        return (through * weight.view(mean.shape) * factor).to(x.dtype), sums[1], sums[0], None, None
