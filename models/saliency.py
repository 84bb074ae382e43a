"""Saliency: how strongly each input pixel moves an objective of the logits (eq. 5), maximum over time (4.2)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from models.precision import Precision, tf32

Objective = Callable[[Tensor], Tensor]  # logits (B, T_out, C) to (B,), or to its sum over clips


class SaliencyError(RuntimeError):
    """A saliency map is not finite."""


def input_saliency(
    network: nn.Module, video: Tensor, objectives: dict[str, Objective], precision: Precision = "float32"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute logits and saliency maps of clips: one forward pass, and one backward pass to the input per objective.

    A map is the L2 norm over colours of the objective's gradient with respect to the RGB values (eq. 5), then the
    maximum over time. Objectives are summed over clips, so a clip's map does not depend on its batch. The network runs
    in eval mode; its flags, gradients and buffers are the same afterwards.

    Args:
        network: video (B, T, H, W, 3) to logits (B, T_out, C).
        video: float (B, T, H, W, 3), RGB in [0, 1].
    Returns:
        logits float32 (B, T_out, C), and for each name a map float32 (B, H, W) of the input frame.
    Raises:
        ValueError: the precision is unknown. SaliencyError: a map is not finite; names objective and clips.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    video = video.detach().requires_grad_()
    maps = {}
    with _frozen(network), torch.enable_grad(), tf32(precision == "tf32"):
        with torch.autocast(video.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(video).float()
        for number, (name, objective) in enumerate(objectives.items(), start=1):
            more = number < len(objectives)
            (gradient,) = torch.autograd.grad(objective(logits).sum(), video, retain_graph=more)
            # colour by colour: reductions over three values are slow on a CPU
            norm = sum(colour.square() for colour in gradient.unbind(-1)).sqrt()  # B, T, H, W
            maps[name] = norm.amax(1)  # B, H, W
            finite = maps[name].isfinite().all(2).all(1)  # B
            if not finite.all():
                bad = (~finite).nonzero().flatten().tolist()
                raise SaliencyError(f"saliency of objective {name!r} is not finite for clips {bad} of the batch")
    return logits.detach(), maps


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
