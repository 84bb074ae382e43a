"""Backbones by name, from float32 video (B, T, H, W, 3), RGB in [0, 1], to logits (B, T_out, num_classes).

A network has `head_name` (state-dict prefix of its classifier), `last_block` (the module whose output Grad-CAM reads),
`channels_last` (that output is (B, T', h, w, C) and not (B, C, T', h, w)), `activation_checkpointing` and `foldable`
(every batch-norm can be folded into the convolution registered before it). One of patches has `patch_embedding`: the
module that embeds them, see `saliency.input_saliency`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.activation_checkpointing import run_blocks
from models.hf_network import build_folder, is_folder
from models.i3d import IMAGENET_COLOURS, resnet50_i3d, small_i3d
from models.own_network import NetworkError, build_own, is_reference, per_time

# mean and standard deviation of RGB under torchvision's Kinetics weights, see its VideoClassification transform
KINETICS_COLOURS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
MVIT_COLOURS = (0.45,) * 3, (0.225,) * 3
RESNET = ("stem", "layer1", "layer2", "layer3", "layer4")
SWINS = ("swin3d_t", "swin3d_s", "swin3d_b")
SWIN = ("patch_embed", "pos_drop", "features", "norm")


def torchvision_network(name: str, body: tuple[str, ...], head: str, colours: tuple, channels_last: bool = False):
    """Return a function (num_classes, **options) that builds torchvision's network `name` as a `PerTime`."""

    def build(num_classes: int, **options) -> nn.Module:
        from torchvision.models import video  # takes more than a second, which stages with other networks save

        return PerTime(getattr(video, name)(num_classes=num_classes, **options), body, head, *colours, channels_last)

    return build


def clip_network(name: str, head: str, colours: tuple):
    """Return a function (num_classes, **options) that builds torchvision's network `name`: one time step a clip."""

    def build(num_classes: int, **options) -> nn.Module:
        from torchvision.models import video

        network = getattr(video, name)(num_classes=num_classes, **options)
        network.head_name, network.last_block, network.channels_last = head, "", False
        network.patch_embedding, network.input_side = "conv_proj", 224
        network.num_frames = options.get("temporal_size", 16)
        network.activation_checkpointing, network.foldable = False, True
        for part, values in zip(("mean", "std"), colours, strict=True):
            network.register_buffer(part, torch.tensor(values), persistent=False)
        network.register_forward_pre_hook(_as_torchvision)
        network.register_forward_hook(per_time)
        return network

    return build


def _as_torchvision(network: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Turn RGB (B, T, H, W, 3) into what torchvision's networks take, (B, 3, T, H, W); a forward pre-hook."""
    return ((inputs[0] - network.mean) / network.std).permute(0, 4, 1, 2, 3)


# name: builder (num_classes, **options); torchvision: modules before the pooling, classifier, colours it was trained on
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "small_i3d": small_i3d,  # T_out = T / 2
    "resnet50_i3d": resnet50_i3d,  # T_out = 1, 3, 7, 15 for T = 16, 32, 64, 128
    "r3d_18": torchvision_network("r3d_18", RESNET, "fc", KINETICS_COLOURS),  # T_out = T / 8
    "mc3_18": torchvision_network("mc3_18", RESNET, "fc", KINETICS_COLOURS),  # T_out = T
    "r2plus1d_18": torchvision_network("r2plus1d_18", RESNET, "fc", KINETICS_COLOURS),  # T_out = T / 8
    "s3d": torchvision_network("s3d", ("features",), "classifier", KINETICS_COLOURS),  # T_out = T / 8
    # T_out = T / 2
    **{
        name: torchvision_network(name, SWIN, "head", IMAGENET_COLOURS, True)
        for name in ("swin3d_t", "swin3d_s", "swin3d_b")
    },
    # T_out = 1; only for 16 frames of 224 x 224
    **{name: clip_network(name, "head", MVIT_COLOURS) for name in ("mvit_v1_b", "mvit_v2_s")},
}


def build(name: str, num_classes: int, **options) -> nn.Module:
    """Build a network with random weights: of BACKBONES, or see `own_network` and `hf_network`.

    State names are those of the published weights files, which `checkpoint.load_weights` reads; nothing is downloaded.
    The options are the constructor's, such as `widths` of small_i3d or `dropout` of s3d. ValueError where there is none
    of this name, or it cannot be built.
    """
    if is_reference(name):
        return build_own(name, num_classes, options)
    if is_folder(name):
        return build_folder(name, num_classes, options)
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is not one of {', '.join(BACKBONES)}")
    try:
        return BACKBONES[name](num_classes, **options)
    except TypeError as error:
        raise NetworkError(f"base.options of {name}: {error}") from error


def head_names(network: nn.Module) -> list[str]:
    """List the state names of the classifier of a network made by `build`."""
    return [name for name in network.state_dict() if name.startswith(f"{network.head_name}.")]


def count_out_frames(network: nn.Module, num_frames: int, side: int) -> int:
    """Return T_out of a network for clips of num_frames at side x side; leave the network as it was."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(torch.zeros(1, num_frames, side, side, 3)).shape[1]
    finally:
        network.train(training)


class PerTime(nn.Module):
    """A torchvision video network that averages over space only and classifies every time step.

    Its modules `body`, up to the pooling, and its classifier `head` keep their names, so the state dict stays
    torchvision's. mean and std are of the RGB values that the published weights expect; with channels_last, the body
    ends in (B, T, H, W, C) instead of (B, C, T, H, W).
    """

    def __init__(
        self, network: nn.Module, body: tuple[str, ...], head: str, mean: tuple, std: tuple, channels_last: bool = False
    ):
        super().__init__()
        self.body, self.head_name, self.last_block, self.channels_last = body, head, body[-1], channels_last
        self.activation_checkpointing = False  # switched on by the training loop; eval mode ignores it
        self.foldable, self.patch_embedding = True, "patch_embed.proj" if "patch_embed" in body else ""
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        for name in (*body, head):
            self.add_module(name, network.get_submodule(name))

    def forward(self, video: Tensor) -> Tensor:
        """Compute logits (B, T_out, num_classes) of a video (B, T, H, W, 3), RGB in [0, 1]."""
        x = ((video - self.mean) / self.std).permute(0, 4, 1, 2, 3)  # B, 3, T, H, W
        for name in self.body:
            x = run_blocks(self.get_submodule(name), x, self.activation_checkpointing and self.training)
        x = x.mean((2, 3)) if self.channels_last else x.mean((3, 4)).transpose(1, 2)  # B, T_out, C
        head = self.get_submodule(self.head_name)
        if isinstance(head, nn.Linear):
            return head(x)  # B, T_out, num_classes
        x = x.transpose(1, 2)[..., None, None]  # B, C, T_out, 1, 1, for the 1 x 1 x 1 convolution of s3d
        return head(x).flatten(2).transpose(1, 2)  # B, T_out, num_classes
