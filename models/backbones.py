"""Backbones by name: our I3Ds, and torchvision's video networks with logits at every time step."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.activation_checkpointing import through
from models.i3d import IMAGENET_MEAN, IMAGENET_STD, resnet50_i3d, small_i3d

Name = Literal["small_i3d", "resnet50_i3d", "r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t"]

# of torchvision's Kinetics weights, see its VideoClassification transform
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


def build(name: Name, num_classes: int, **options) -> nn.Module:
    """A network with random weights: video (B, T, H, W, 3), RGB in [0, 1], to logits (B, T_out, num_classes).

    Nothing is downloaded: `checkpoint.load_weights` reads a local file. State names are those of the published files.

    Args:
        name: T_out is T / 2 for small_i3d and swin3d_t, T for mc3_18, T / 8 for r3d_18, r2plus1d_18 and s3d; for
            resnet50_i3d see there.
        options: of the network's constructor, such as `widths` of small_i3d or `dropout` of s3d.
    """
    if name == "small_i3d":
        return small_i3d(num_classes, **options)
    if name == "resnet50_i3d":
        return resnet50_i3d(num_classes, **options)
    if name not in get_args(Name):
        raise ValueError(f"backbone {name!r} is not one of {', '.join(get_args(Name))}")
    from torchvision.models import video as torchvision_video  # more than a second that every other stage is spared

    network = getattr(torchvision_video, name)(weights=None, num_classes=num_classes, **options)
    if name == "s3d":
        return PerTime(network, ("features",), "classifier", KINETICS_MEAN, KINETICS_STD)
    if name == "swin3d_t":
        body = ("patch_embed", "pos_drop", "features", "norm")
        return PerTime(network, body, "head", IMAGENET_MEAN, IMAGENET_STD, channels_last=True)
    return PerTime(network, ("stem", "layer1", "layer2", "layer3", "layer4"), "fc", KINETICS_MEAN, KINETICS_STD)


def head_names(network: nn.Module) -> list[str]:
    """State names of the classifier of a network made by `build`."""
    return [name for name in network.state_dict() if name.startswith(f"{network.head_name}.")]


class PerTime(nn.Module):
    """A torchvision video network that averages over space only and classifies every time step.

    Args:
        network: gives its modules, under their own names, so the state dict stays torchvision's.
        body: names of the modules before the pooling, in order.
        head: name of the classifier.
        mean, std: of the RGB values that the published weights expect.
        channels_last: the body ends in (B, T, H, W, C) instead of (B, C, T, H, W).
    """

    def __init__(
        self, network: nn.Module, body: tuple[str, ...], head: str, mean: tuple, std: tuple, channels_last: bool = False
    ):
        super().__init__()
        self.body, self.head_name, self.channels_last = body, head, channels_last
        self.activation_checkpointing = False  # in training only; see there
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        for name in (*body, head):
            self.add_module(name, network.get_submodule(name))

    def forward(self, video: Tensor) -> Tensor:
        """Logits (B, T_out, num_classes) of a video (B, T, H, W, 3), RGB in [0, 1]."""
        x = ((video - self.mean) / self.std).permute(0, 4, 1, 2, 3)  # B, 3, T, H, W
        for name in self.body:
            x = through(self.get_submodule(name), x, self.activation_checkpointing and self.training)
        x = x.mean((2, 3)) if self.channels_last else x.mean((3, 4)).transpose(1, 2)  # B, T_out, C
        head = self.get_submodule(self.head_name)
        if isinstance(head, nn.Linear):
            return head(x)
        return head(x.transpose(1, 2)[..., None, None]).flatten(2).transpose(1, 2)  # s3d: a 1 x 1 x 1 convolution


def count_out_frames(network: nn.Module, num_frames: int, side: int) -> int:
    """T_out of a network for clips of num_frames at side x side; changes nothing in the network."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(torch.zeros(1, num_frames, side, side, 3)).shape[1]
    finally:
        network.train(training)
