"""Batch-norm folded into the convolution before it: the same function in fewer passes over memory."""

import copy
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.frozen.i3d import FrozenI3D
from models.i3d import I3D

ENGINE = 2  # counted up when a change moves the last digits of what folded networks compute; part of cache keys


def fold(network: nn.Module) -> nn.Module:
    """A frozen copy in eval mode with batch-norms folded into their convolutions; the network itself is untouched.

    A batch-norm belongs to the convolution registered right before it in the same module, as in all of
    `backbones.build`; others stay as they are. An I3D becomes a `FrozenI3D`, which is faster still. The copy is for
    running, not for saving: its state names differ.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv3d) and isinstance(norm, _BatchNorm):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
                setattr(parent, norm_name, nn.Identity())
    return FrozenI3D(folded).eval() if isinstance(folded, I3D) else folded
