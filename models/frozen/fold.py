"""Batch-norm folded into the convolution before it: the same function in fewer passes over memory.

Logits equal the unfolded network's: of an I3D to 1e-5, relative L2 (tests/models/test_i3d.py::
test_folding_leaves_the_network_alone), of all backbones to 1e-4 (test_backbones.py::test_logits_at_every_time_step).
"""

import copy
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.frozen.i3d import FrozenI3D
from models.i3d import I3D

# Part of the cache keys of logits and maps: count it up when a change moves the last digits of folded networks on the
# CPU; those of GPUs differ from card to card.
NUMERICS_VERSION = 2


def fold(network: nn.Module) -> nn.Module:
    """Return a frozen copy in eval mode with every batch-norm folded into its convolution; of an I3D, a `FrozenI3D`.

    A batch-norm belongs to the convolution registered right before it in the same module, as in all of
    `backbones.BACKBONES`; others stay, and so do all of a network that is not `foldable`. The copy is for running, not
    for saving: its state names differ.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(folded.modules()) if network.foldable else []:
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv3d) and isinstance(norm, _BatchNorm):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
                setattr(parent, norm_name, nn.Identity())
    return FrozenI3D(folded).eval() if isinstance(folded, I3D) else folded
