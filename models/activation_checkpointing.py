"""Activation checkpointing: training in less memory, where each block runs forward once more during backward."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def through(module: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """module(x). With `recompute`, only the input of each block is kept for backward, and all within is run again.

    Blocks are the members of an `nn.Sequential`; anything else, subclasses included, is one block. Gradients, dropout
    and batch-norm statistics are what they are without.
    """
    if not recompute:
        return module(x)
    for block in module if type(module) is nn.Sequential else (module,):
        x = _recomputed(block, x)
    return x


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch-norm within moves copies of its running statistics: the first run has moved the real ones already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
