"""Saliency: how strongly each input pixel moves an objective of the logits (eq. 5), maximum over time (4.2)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.own_network import NetworkError
from models.precision import Precision, tf32

Objective = Callable[[Tensor], Tensor]  # logits (B, T_out, C) to (B,), or to its sum over clips
GradientAt = Literal["pixels", "patches"]


class SaliencyError(RuntimeError):
    """A saliency map is not finite."""


def input_saliency(
    network: nn.Module,
    video: Tensor,
    objectives: dict[str, Objective],
    precision: Precision = "float32",
    gradient_at: GradientAt = "pixels",
    segments: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute logits and saliency maps of clips: one forward pass, and one backward pass to the input per objective.

    A map is the L2 norm over colours of the objective's gradient with respect to the RGB values (eq. 5), then the
    maximum over time. At "patches", it is the norm over channels of the gradient with respect to the network's patch
    embeddings, then the maximum over time, enlarged bilinearly from the patch grid to the input frame. Objectives are
    summed over clips, so a clip's map does not depend on its batch. The network runs in eval mode; its flags, gradients
    and buffers are the same afterwards.

    Args:
        network: video (B, T, H, W, 3) to logits (B, T_out, C).
        video: float (B, T, H, W, 3), RGB in [0, 1].
        segments: of time, each with a maximum of its own, see `segment_maxima`.
    Returns:
        logits float32 (B, T_out, C), and for each name a map float32 (B, H, W) of the input frame; with several
        segments (B, segments, H, W).
    Raises:
        ValueError: the precision is unknown. SaliencyError: a map is not finite; names objective and clips.
        NetworkError: the network does not name its patch embedding, or that gives no patch grid.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    video = video.detach().requires_grad_()
    maps = {}
    cut = cut_graph(network, patch_embedding(network)) if gradient_at == "patches" else nullcontext([video])
    with _frozen(network), torch.enable_grad(), tf32(precision == "tf32"), cut as leaves:
        with torch.autocast(video.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(video).float()
        for number, (name, objective) in enumerate(objectives.items(), start=1):
            more = number < len(objectives)
            (gradient,) = torch.autograd.grad(objective(logits).sum(), leaves[0], retain_graph=more)
            if gradient_at == "patches":
                norm = segment_maxima(_on_patch_grid(gradient.float(), network, video), segments)  # B, segments, h, w
                norm = F.interpolate(norm, size=video.shape[2:4], mode="bilinear", align_corners=False)
            else:  # colour by colour: reductions over three values are slow on a CPU
                norm = sum(colour.square() for colour in gradient.unbind(-1)).sqrt()  # B, T, H, W
                norm = segment_maxima(norm, segments)
            maps[name] = norm if segments > 1 else norm[:, 0]
            finite = maps[name].isfinite().flatten(1).all(1)  # B
            if not finite.all():
                bad = (~finite).nonzero().flatten().tolist()
                raise SaliencyError(f"saliency of objective {name!r} is not finite for clips {bad} of the batch")
    return logits.detach(), maps


def segment_maxima(values: Tensor, segments: int) -> Tensor:
    """Take the maximum over every segment of the second axis, time: (B, T', ...) to (B, segments, ...).

    Segment s has the steps that its share of the time touches, floor(s T' / segments) to ceil((s + 1) T' / segments),
    as adaptive pooling has them. So where a network has fewer steps than there are segments, neighbours share one.
    """
    steps = values.shape[1]
    edges = ((one * steps // segments, -(-(one + 1) * steps // segments)) for one in range(segments))
    return torch.stack([values[:, first:end].amax(1) for first, end in edges], 1)


def patch_embedding(network: nn.Module) -> str:
    """Return the name of a network's patch embedding; NetworkError where it names none."""
    if name := getattr(network, "patch_embedding", ""):
        return name
    raise NetworkError(
        "saliency.gradient_at = patches needs the network's attribute patch_embedding, the name of the module that "
        "embeds patches; networks of convolutions have none, so keep saliency.gradient_at = pixels for them"
    )


@contextmanager
def cut_graph(network: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Let the graph begin at the output of a module of this name; yield the list that gets this output, a leaf."""
    leaves = []

    def cut(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = network.get_submodule(name).register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _on_patch_grid(gradient: Tensor, network: nn.Module, video: Tensor) -> Tensor:
    """Compute the L2 norm over the channels of a gradient at patch embeddings, (B, T', h, w).

    The embeddings are (B, D, T', h, w), (B T', D, h, w), or (B, N, D) with the attribute patch_size of the network.
    """
    if gradient.ndim == 5:
        return gradient.norm(dim=1)
    if gradient.ndim == 4 and len(gradient) % len(video) == 0:
        return gradient.norm(dim=1).unflatten(0, (len(video), -1))
    size = getattr(network, "patch_size", None)  # frames, rows, columns
    grid = [length // part for length, part in zip(video.shape[1:4], size, strict=True)] if size else [0]
    if gradient.ndim == 3 and gradient.shape[1] == math.prod(grid):
        return gradient.norm(dim=-1).unflatten(1, grid)
    raise NetworkError(
        f"the patch embedding {network.patch_embedding} gives {tuple(gradient.shape)} for clips {tuple(video.shape)}, "
        "expected (B, D, T', h, w), (B x T', D, h, w), or (B, T' x h x w, D) and a patch_size (frames, rows, columns)"
    )


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Set eval mode and stop parameter gradients; restore every flag, also after an exception."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        network.eval()
        network.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
