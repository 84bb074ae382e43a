"""ResNet50-I3D and its input, for both sides: ours, and the same weights in plain nn.Conv3d."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_i3d import plain_resnet50
from models.i3d import I3D, resnet50_i3d

CLASSES = 157
SIDE = 224  # pixels of the input frame
BOX = 128  # pixels of the focus box in the input frame


def both_networks() -> tuple[I3D, nn.Module]:
    """Ours and the plain one with equal random weights that behave as trained ones do, in eval mode.

    Batch-norm has the statistics of a forward pass; blocks change their input rather than replace it (with a last scale
    of 1 instead of 0.5, rounding errors grow block by block); logits differ.
    """
    torch.manual_seed(0)  # the initialisers of torch.nn know no generator
    ours, plain = resnet50_i3d(CLASSES), plain_resnet50(CLASSES)
    norms = [module for module in ours.modules() if isinstance(module, nn.BatchNorm3d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # one pass sets the statistics
    with torch.no_grad():
        for name, norm in ours.named_modules():
            if name.endswith("bn3"):
                norm.weight.fill_(0.5)
        ours.train()(clip(16, side=112, seed=1).repeat(1, 2, 1, 1, 1))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        ours.fc.weight.mul_(10)
    plain.load_state_dict(ours.state_dict())
    return ours.eval(), plain.eval()


def clip(frames: int, side: int = SIDE, seed: int = 0) -> Tensor:
    """Float32 (1, T, H, W, 3) in [0, 1]: smooth colours that drift, with a grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, max(frames // 4, 2), 7, 7, generator=generator)
    smooth = F.interpolate(coarse, (frames, side, side), mode="trilinear", align_corners=True)
    grain = torch.rand(1, 3, frames, side, side, generator=generator)
    return (0.8 * smooth + 0.2 * grain).permute(0, 2, 3, 4, 1).contiguous()
