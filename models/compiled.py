"""torch.compile: forward and backward passes as compiled code, with the state and the state names of the network."""

import torch
from torch import nn

from models.frozen.i3d import FrozenI3D
from models.own_network import NetworkError


def compile_network(network: nn.Module, wanted: bool = True) -> nn.Module:
    """Compile a network in place, if wanted, at its next call; return it. Copies of it are not compiled.

    A frozen I3D stays as it is: its passes are written out already. NetworkError where no compiler works here.
    """
    if not wanted or isinstance(network, FrozenI3D):
        return network
    device = next((one.device for one in network.parameters()), torch.device("cpu"))
    try:
        torch.compile(torch.neg)(torch.ones(1, device=device))
    except Exception as error:  # of torch.compile or of the compiler: any
        why = str(error).strip().partition("\n")[0]
        raise NetworkError(
            f"base.compile = true, but torch.compile does not work here ({type(error).__name__}: {why}); "
            "on a CPU it needs a C++ compiler; base.compile = false needs none"
        ) from error
    network.compile(dynamic=False)  # clips have one shape; a smaller last batch is compiled by itself
    return network
