"""I3D: a 2-D residual network whose kernels also reach into time, with logits at every time step (paper, 5.2).

Carreira and Zisserman, Quo Vadis, Action Recognition? (2017), as built on ResNet-50 by Wang et al., Non-local Neural
Networks (2018).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.activation_checkpointing import run_blocks
from models.kernels.split_conv import SplitConv3d

IMAGENET_COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of RGB


@dataclass(frozen=True)
class Architecture:
    """The sizes of an I3D; by default those of the published ResNet50-I3D."""

    stem: tuple[int, int, int] = (5, 7, 7)  # kernel (time, height, width) of the first convolution; all strides are 2
    stem_width: int = 64  # its output channels
    first_pool: tuple[int, int, int] = (3, 3, 3)  # kernel of the max pool after it; stride 2 where it is larger than 1
    second_pool: bool = True  # a max pool over 3 frames with stride 2 after the first stage
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # residual blocks of each stage
    widths: tuple[int, ...] = (256, 512, 1024, 2048)  # their output channels; every stage but the first halves space
    pool_frames: int = 2  # length of the average over time before the classifier, stride 1
    momentum: float = 0.01  # of batch-norm, except in the shortcuts
    dropout: float = 0.5  # before the classifier


def resnet50_i3d(num_classes: int = 157) -> "I3D":
    """Build the published ResNet50-I3D of PyVideoResearch, the paper's network; state names are the published ones.

    At 224 x 224 the logits have T_out = 1, 3, 7, 15 time steps for T_in = 16, 32, 64, 128.
    """
    return I3D(num_classes, Architecture())


def small_i3d(num_classes: int, widths: tuple[int, ...] = (48, 96, 160), blocks: tuple[int, ...] = (1, 1, 1)) -> "I3D":
    """Build a small network of the same blocks for the miniature: trained from scratch, in minutes, on a CPU.

    8 frames of 56 x 56 give T_out = 4 time steps, and feature maps from 14 x 14 to 4 x 4. Batch-norm has a larger
    momentum, for in a short training the statistics must follow fast.
    """
    small = Architecture(
        stem=(3, 5, 5),
        stem_width=24,
        first_pool=(1, 3, 3),
        second_pool=False,
        blocks=blocks,
        widths=widths,
        pool_frames=1,
        momentum=0.1,
        dropout=0.0,
    )
    return I3D(num_classes, small)


def as_input(frames: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Turn uint8 RGB (..., 3) into float32 in [0, 1] on the device; only one byte a value is copied to it."""
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    values = frames.to(device, non_blocking=True).float()
    return values.div_(values.new_full((), 255))  # by a number, a GPU would multiply with 1 / 255: other last digits


def inflate_2d(state_2d: dict[str, Tensor], network: "I3D") -> dict[str, Tensor]:
    """Inflate torchvision's ImageNet ResNet-50 (its state dict) to the kernel lengths of the network.

    Each kernel is repeated along time and divided by its length there. A video of equal frames then gets the features
    of the image, except near the clip's ends, where time is padded. The classifier (`fc.*`) is left out.
    """
    state = {name: value for name, value in state_2d.items() if not name.startswith("fc.")}
    for name, conv in network.named_modules():
        weight = state.get(f"{name}.weight")
        if isinstance(conv, nn.Conv3d) and weight is not None and weight.ndim == 4:
            length = conv.kernel_size[0]
            state[f"{name}.weight"] = weight.unsqueeze(2).repeat(1, 1, length, 1, 1) / length
    return state


def classify(x: Tensor, pool_frames: int, classifier: Callable[[Tensor], Tensor], frames: int) -> Tensor:
    """Average features (B, C, T', h, w) over space and `pool_frames` steps; return logits (B, T_out, num_classes).

    The classifier takes (B, C, T_out, 1, 1) to (B, num_classes, T_out, 1, 1). ValueError where the clip, of so many
    frames, is too short.
    """
    if x.shape[2] < pool_frames:
        raise ValueError(f"a clip of {frames} frames is too short: {x.shape[2]} of {pool_frames} steps left")
    x = F.avg_pool3d(x.mean((3, 4), keepdim=True), (pool_frames, 1, 1), stride=1)  # B, C, T_out, 1, 1
    return classifier(x).flatten(2).transpose(1, 2)  # B, T_out, num_classes


class Bottleneck(nn.Module):
    """Residual block of 3 x 1 x 1, 1 x 3 x 3 (with the spatial stride) and 1 x 1 x 1 convolutions."""

    def __init__(self, width_in: int, width: int, stride: int, momentum: float):
        super().__init__()
        inner = width // 4
        norm = {"eps": 1e-3, "momentum": momentum}
        self.conv1 = SplitConv3d(width_in, inner, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(inner, **norm)
        self.conv2 = SplitConv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(inner, **norm)
        self.conv3 = SplitConv3d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width, **norm)
        self.downsample = None
        if stride != 1 or width_in != width:
            # the published network leaves PyTorch's defaults in the shortcut's batch-norm
            self.downsample = nn.Sequential(
                SplitConv3d(width_in, width, 1, (1, stride, stride), bias=False), nn.BatchNorm3d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, width, T, H / stride, W / stride)."""
        # in place where backward does not need the value: neither batch-norm nor the sum reads its own result
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)  # B, inner, T, H, W
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)  # B, inner, T, H / stride, W / stride
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class I3D(nn.Module):
    """Stem, pool, residual stages, mean over space, classifier at every time step.

    The published network averages 7 x 7 windows before the classifier, which at 224 x 224 is the whole map; here it is
    the whole map at any size.
    """

    def __init__(self, num_classes: int, arch: Architecture):
        super().__init__()
        self.layer_names = tuple(f"layer{i}" for i in range(1, len(arch.widths) + 1))
        self.pool_frames, self.head_name, self.last_block = arch.pool_frames, "fc", self.layer_names[-1]
        self.channels_last = False
        self.activation_checkpointing = False  # switched on by the training loop; eval mode ignores it
        self.foldable = True
        # not persistent: the state dict has exactly the published names
        self.register_buffer("mean", torch.tensor(IMAGENET_COLOURS[0]), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_COLOURS[1]), persistent=False)
        self.conv1 = SplitConv3d(3, arch.stem_width, arch.stem, 2, tuple(k // 2 for k in arch.stem), bias=False)
        self.bn1 = nn.BatchNorm3d(arch.stem_width, eps=1e-3, momentum=arch.momentum)
        strides = tuple(min(k, 2) for k in arch.first_pool)
        self.maxpool = nn.MaxPool3d(arch.first_pool, strides, tuple(k // 2 for k in arch.first_pool))
        self.maxpool2 = nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0)) if arch.second_pool else nn.Identity()
        width_in = arch.stem_width
        for name, width, count in zip(self.layer_names, arch.widths, arch.blocks, strict=True):
            layer = nn.Sequential(Bottleneck(width_in, width, 1 if name == "layer1" else 2, arch.momentum))
            layer.extend(Bottleneck(width, width, 1, arch.momentum) for _ in range(count - 1))
            self.add_module(name, layer)
            width_in = width
        self.dropout = nn.Dropout(arch.dropout)
        self.fc = SplitConv3d(width_in, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        self.to(memory_format=torch.channels_last_3d)  # packs the weights for conv2d on views, once

    def forward(self, video: Tensor) -> Tensor:
        """Compute logits (B, T_out, num_classes) of a video (B, T, H, W, 3), RGB in [0, 1]."""
        x = ((video - self.mean) / self.std).permute(0, 4, 1, 2, 3)  # B, 3, T, H, W, still channels last in memory
        # ReLU and max pool may change places; after the pool ReLU has less to do
        x = F.relu(self.maxpool(self.bn1(self.conv1(x))), inplace=True)  # B, stem_width, T', h, w
        recompute = self.activation_checkpointing and self.training
        x = self.maxpool2(run_blocks(self.layer1, x, recompute))
        for name in self.layer_names[1:]:
            x = run_blocks(self.get_submodule(name), x, recompute)  # B, width, T', h, w
        return classify(x, self.pool_frames, lambda mean: self.fc(self.dropout(mean)), video.shape[1])
