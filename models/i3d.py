"""The video network I3D: a 2-D residual network whose kernels also reach into time, with logits at every time step."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.activation_checkpointing import through
from models.kernels.split_conv import SplitConv3d

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resnet50_i3d(num_classes: int = 157) -> "I3D":
    """The published ResNet50-I3D of PyVideoResearch, the paper's network; its state dict has the published names.

    At 224 x 224 the logits have T_out = 1, 3, 7, 15 time steps for T_in = 16, 32, 64, 128.
    """
    return I3D(
        num_classes,
        stem=(5, 7, 7),
        stem_width=64,
        first_pool=(3, 3, 3),
        blocks=(3, 4, 6, 3),
        widths=(256, 512, 1024, 2048),
        second_pool=True,
        pool_frames=2,
        momentum=0.01,
        dropout=0.5,
    )


def small_i3d(num_classes: int, widths: tuple[int, ...] = (48, 96, 160), blocks: tuple[int, ...] = (1, 1, 1)) -> "I3D":
    """A network of the same blocks for the miniature: trained from nothing, in minutes, on a processor.

    The stem halves time and space, one pool halves space again, so 8 frames of 56 x 56 become T_out = 4 steps of a
    map that shrinks from 14 x 14 to 4 x 4. Batch-norm has PyTorch's momentum: a short training needs it to follow fast.
    """
    return I3D(
        num_classes,
        stem=(3, 5, 5),
        stem_width=24,
        first_pool=(1, 3, 3),
        blocks=blocks,
        widths=widths,
        second_pool=False,
        pool_frames=1,
        momentum=0.1,
        dropout=0.0,
    )


def as_input(frames: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 RGB (..., 3) to float32 in [0, 1] on the device; what crosses to the device is one byte a value."""
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    return frames.to(device, non_blocking=True).float().div_(255)


def inflate_2d(state_2d: dict[str, Tensor], network: "I3D") -> dict[str, Tensor]:
    """ImageNet weights of torchvision's ResNet-50 for this network: kernels repeated in time, divided by their length.

    A video of equal frames then gets the features of the image (away from the clip's ends, where time is padded).

    Args:
        state_2d: state dict of `torchvision.models.resnet50`.
        network: gives the kernel lengths.
    Returns:
        a state dict without the classifier (`fc.*`), whose classes differ.
    """
    lengths = {
        f"{name}.weight": conv.kernel_size[0] for name, conv in network.named_modules() if isinstance(conv, nn.Conv3d)
    }
    state = {name: value for name, value in state_2d.items() if not name.startswith("fc.")}
    for name in lengths.keys() & state.keys():
        state[name] = state[name].unsqueeze(2).repeat(1, 1, lengths[name], 1, 1) / lengths[name]
    return state


def classify(x: Tensor, pool_frames: int, classifier: Callable[[Tensor], Tensor], frames: int) -> Tensor:
    """Logits (B, T_out, num_classes) of features (B, C, T', h, w): mean over space, over some steps, classifier.

    Args:
        frames: of the clip, for the error of one that is too short.
    """
    if x.shape[2] < pool_frames:
        raise ValueError(f"a clip of {frames} frames is too short: {x.shape[2]} of {pool_frames} steps left")
    x = F.avg_pool3d(x.mean((3, 4), keepdim=True), (pool_frames, 1, 1), stride=1)  # B, C, T_out, 1, 1
    return classifier(x).flatten(2).transpose(1, 2)


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
        # in place where the value is needed no more: neither batch-norm nor the sum looks at its own result again
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class I3D(nn.Module):
    """Stem, pool, residual stages, mean over space, classifier at every time step.

    The published network averages 7 x 7 windows before the classifier, which at 224 x 224 is the whole map; here it is
    the whole map at any size.

    Args:
        stem: kernel (time, height, width) of the first convolution, which has stride 2 in all three.
        first_pool: kernel of the max pool after it, stride 2 wherever the kernel is larger than 1.
        blocks, widths: residual blocks and output channels of each stage; every stage but the first halves space.
        second_pool: a max pool over 3 frames with stride 2 after the first stage.
        pool_frames: length of the average over time before the classifier, stride 1.
        momentum: of the batch-norm layers, except in the shortcuts.
    """

    def __init__(
        self, num_classes, *, stem, stem_width, first_pool, blocks, widths, second_pool, pool_frames, momentum, dropout
    ):
        super().__init__()
        self.pool_frames, self.head_name = pool_frames, "fc"
        self.activation_checkpointing = False  # in training only; see there
        # not persistent: the state dict keeps exactly the published names
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)
        self.conv1 = SplitConv3d(3, stem_width, stem, 2, tuple(k // 2 for k in stem), bias=False)
        self.bn1 = nn.BatchNorm3d(stem_width, eps=1e-3, momentum=momentum)
        strides = tuple(min(k, 2) for k in first_pool)
        self.maxpool = nn.MaxPool3d(first_pool, strides, tuple(k // 2 for k in first_pool))
        self.maxpool2 = nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0)) if second_pool else nn.Identity()
        self.stages = len(widths)
        for i, (width_in, width, count) in enumerate(zip((stem_width, *widths), widths, blocks, strict=False)):
            first = Bottleneck(width_in, width, 1 if i == 0 else 2, momentum)
            rest = (Bottleneck(width, width, 1, momentum) for _ in range(count - 1))
            setattr(self, f"layer{i + 1}", nn.Sequential(first, *rest))
        self.dropout = nn.Dropout(dropout)
        self.fc = SplitConv3d(widths[-1], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        self.to(memory_format=torch.channels_last_3d)  # packs the weights for conv2d on views, once

    def forward(self, video: Tensor) -> Tensor:
        """Logits (B, T_out, num_classes) of a video (B, T, H, W, 3), RGB in [0, 1]."""
        x = ((video - self.mean) / self.std).permute(0, 4, 1, 2, 3)  # B, 3, T, H, W, still channels last in memory
        x = F.relu(
            self.maxpool(self.bn1(self.conv1(x))), inplace=True
        )  # ReLU commutes with the pool, and is cheaper here
        recompute = self.activation_checkpointing and self.training
        x = self.maxpool2(through(self.layer1, x, recompute))
        for i in range(1, self.stages):
            x = through(getattr(self, f"layer{i + 1}"), x, recompute)
        return classify(x, self.pool_frames, lambda mean: self.fc(self.dropout(mean)), video.shape[1])
