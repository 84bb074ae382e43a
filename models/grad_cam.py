"""Grad-CAM: which places of the last block's features raise an objective of the logits (Selvaraju et al., 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.own_network import NetworkError
from models.precision import Precision, tf32
from models.saliency import Objective, SaliencyError, cut_graph, segment_maxima


def last_block(network: nn.Module, who_needs: str = "Grad-CAM needs") -> str:
    """Return the name of the module that Grad-CAM looks at; NetworkError where a network names none."""
    if network.last_block:
        return network.last_block
    raise NetworkError(f"{who_needs} the network's attribute last_block, the name of its last module with places")


def grad_cam(
    network: nn.Module,
    video: Tensor,
    objectives: dict[str, Objective],
    precision: Precision = "float32",
    segments: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute logits and Grad-CAM maps of clips with a network in eval mode; as `saliency.input_saliency`.

    A channel's weight is the mean over time and space of the objective's gradient with respect to it (their eq. 1); the
    map is the positive part of the weighted sum of channels (their eq. 2), enlarged bilinearly to the input, then its
    maximum over time, as in the released code. Only the part of the network behind the last block is differentiated. A
    clip in which no place raises the objective has a map of zeros. ValueError where the network is in train mode;
    SaliencyError where a map is not finite.
    """
    if network.training:
        raise ValueError("grad_cam needs a network in eval mode")
    block_name = last_block(network)
    autocast = torch.autocast(video.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with cut_graph(network, block_name) as features, tf32(precision == "tf32"), torch.enable_grad(), autocast:
        logits = network(video.detach()).float()
    maps = {}
    for name, objective in objectives.items():
        with tf32(precision == "tf32"), torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(logits).sum(), features[0], retain_graph=True)
        block = features[0].detach().float(), gradient.float()
        if network.channels_last:
            block = (values.permute(0, 4, 1, 2, 3) for values in block)
        channels, gradient = block  # B, C, T, h, w
        weights = gradient.mean((2, 3, 4), keepdim=True)  # B, C, 1, 1, 1
        cam = (weights * channels).sum(1).relu()  # B, T, h, w
        cam = F.interpolate(cam, size=video.shape[2:4], mode="bilinear", align_corners=False)
        cam = segment_maxima(cam, segments)
        maps[name] = cam if segments > 1 else cam[:, 0]
        if not maps[name].isfinite().all():
            raise SaliencyError(f"Grad-CAM of objective {name!r} is not finite")
    return logits.detach(), maps
