"""Floating-point operations of a pass, counted while it runs."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Operations(TorchDispatchMode):
    """Counts operations of convolutions and products, two for a multiplication and its addition.

    PyTorch's own counter follows modules as well, and so cannot be used around `torch.autograd.grad`.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Call and count."""
        kwargs, count = kwargs or {}, flop_registry.get(function._overloadpacket)
        if count is None:
            with self:  # in inference mode operators come here whole, such as conv3d
                found = function.decompose(*args, **kwargs)
            return function(*args, **kwargs) if found is NotImplemented else found
        found = function(*args, **kwargs)
        self.total += count(*args, **kwargs, out_val=found)
        return found


def count_operations(run: Callable[[], Tensor | tuple]) -> int:
    """Call `run`; return how many operations its convolutions and matrix products took, by PyTorch's formulae."""
    # attention written out: its fused form on a CPU is not in PyTorch's list of what to count
    with sdpa_kernel(SDPBackend.MATH), _Operations() as counter:
        run()
    return counter.total
