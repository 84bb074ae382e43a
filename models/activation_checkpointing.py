"""Activation checkpointing: train in less memory by running each block forward a second time during backward.

Chen et al., Training Deep Nets with Sublinear Memory Cost (2016), through `torch.utils.checkpoint`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_blocks(module: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """Compute module(x); with `recompute`, keep only the input of each block and compute the rest again in backward.

    The members of an `nn.Sequential` are the blocks; any other module, a subclass of it too, is one block. Gradients,
    dropout masks and batch-norm statistics are the same with and without.
    """
    if not recompute:
        return module(x)
    for block in module if type(module) is nn.Sequential else (module,):
        x = checkpoint(block, x, use_reentrant=False, context_fn=lambda b=block: (nullcontext(), _statistics_kept(b)))
    return x


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let batch-norm update copies of its running statistics: the first forward pass has updated the real ones."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
