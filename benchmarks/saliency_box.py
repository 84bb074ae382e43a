"""Logits, saliency map and box of a clip: with our engine, and written plainly with autograd."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import BOX
from models.box_search import best_box, quantise
from models.losses import negative_entropy
from models.saliency import input_saliency


@dataclass(frozen=True)
class Found:
    """Logits (1, T_out, C), map (H, W), box (top, left)."""

    logits: Tensor
    saliency: Tensor
    box: tuple[int, int]


def ours(folded: nn.Module, video: Tensor) -> Found:
    """What stage 1 does for a clip (1, T, H, W, 3)."""
    logits, maps = input_saliency(folded, video, {"entropy": negative_entropy})
    codes, _ = quantise(maps["entropy"][0].numpy())
    return Found(logits, maps["entropy"][0], best_box(codes, BOX, BOX)[:2])


def plainly(network: nn.Module, video: Tensor) -> Found:
    """The same with autograd, and with a convolution with ones for the box, as in the paper's code."""
    video = video.clone().requires_grad_()
    logits = network(video)
    (gradient,) = torch.autograd.grad(negative_entropy(logits).sum(), video)
    saliency = gradient.norm(dim=-1).amax(1)[0]
    return Found(logits.detach(), saliency, box_by_convolution(saliency))


def box_by_convolution(saliency: Tensor) -> tuple[int, int]:
    """Top and left of the best box of a map (H, W)."""
    sums = F.conv2d(saliency[None, None], torch.ones(1, 1, BOX, BOX, dtype=saliency.dtype))[0, 0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left


def agreement(folded: nn.Module, plain: nn.Module, video: Tensor) -> dict[str, float | bool]:
    """Differences between both engines on a clip, relative (L2 for maps, largest for logits), and whether boxes agree.

    Where a ReLU's input is zero up to rounding, chance decides whether its gradient passes, so float32 maps of two
    correct engines differ. The distance of the plain network's map from float64 tells how much to expect.
    """
    a, b = ours(folded, video), plainly(plain, video)
    exact = plainly(copy.deepcopy(plain).double(), video.double()).saliency
    codes = quantise(b.saliency.numpy())[0].astype(np.float64)
    sums = [codes[top : top + BOX, left : left + BOX].sum() for top, left in (a.box, b.box)]
    return {
        "logits": float((a.logits - b.logits).abs().max() / b.logits.abs().max()),
        "maps": _distance(a.saliency, b.saliency),
        "ours_float64": _distance(a.saliency, exact),
        "theirs_float64": _distance(b.saliency, exact),
        "box": a.box == b.box or bool(abs(sums[0] - sums[1]) <= 1e-4 * sums[1]),
    }


def words(differences: dict[str, float | bool]) -> str:
    text = "logits to {logits:.0e}, map to {maps:.0e} (from float64: {ours_float64:.0e}, theirs {theirs_float64:.0e})"
    return f"{text.format(**differences)}, {'equal box' if differences['box'] else 'ANOTHER BOX'}"


def is_exact(differences: dict[str, float | bool]) -> bool:
    """Whether boxes are equal, logits agree to 1e-5, and maps to 1e-3 or ours is at most twice as far from float64."""
    maps = differences["maps"] <= 1e-3 or differences["ours_float64"] <= 2 * differences["theirs_float64"]
    return differences["logits"] <= 1e-5 and maps and bool(differences["box"])


def _distance(a: Tensor, b: Tensor) -> float:
    """L2 distance, relative to the norm of b."""
    return float((a - b).norm() / b.norm())
