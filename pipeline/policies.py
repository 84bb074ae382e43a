"""Where to look: which boxes and pixels there are, how a network looks, and the box that follows. No store is opened.

Stage 1 and training on the fly call the same functions, so that both look at the same places.
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal

import numpy as np
from torch import Tensor, nn

from cache.records import Box, Clip
from models.box_search import best_box
from models.grad_cam import grad_cam
from models.losses import charades_loss, entropy, max_logit, softmax_entropy
from models.saliency import input_saliency
from pipeline.config import OBJECTIVES, Config
from pipeline.sampling import row_generator

Policy = Literal["entropy", "cross_entropy", "max_logit", "softmax_entropy", "random", "center"]
Focus = Policy | Literal["repeat"]  # "repeat": the second volume is V_in again
Pixels = Literal["source", "input"]
Fusion = Literal["late", "concat"]
POLICIES = (*OBJECTIVES, "random", "center")  # the first ones look at a saliency map


def saliency_maps(
    network: nn.Module, video: Tensor, names: Iterable[str], config: Config, targets: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the saliency maps of some objectives, by the config's method; see `input_saliency`.

    Args:
        network, video: as there.
        names: of objectives, from OBJECTIVES.
        targets: labels of the videos (B, C) and of the frames (B, T, C), on the video's device; only `cross_entropy`
            looks at them, None will do for the others.
    """
    objectives = {"entropy": entropy, "max_logit": max_logit, "softmax_entropy": softmax_entropy}
    if targets is not None:
        objectives["cross_entropy"] = partial(
            charades_loss,
            video_targets=targets[0],
            frame_targets=targets[1],
            video_loss_weight=config.base.video_loss_weight,
            reduction="clip_sum",
        )
    look = grad_cam if config.saliency.method == "grad_cam" else input_saliency
    return look(network, video, {name: objectives[name] for name in names}, config.saliency.precision)


def find_box(config: Config, clip: Clip, policy: Policy, codes: np.ndarray | None) -> tuple[Box, float]:
    """box_input of one clip and the share of the map's sum inside it (NaN without a map).

    Args:
        policy: an objective searches its stored map (eq. 6); "random" draws from the row's own generator; "center".
        codes: the objective's map, uint16 (H_in, W_in); None for the others.
    """
    side = config.saliency.box_side
    height, width = clip.theta.input_size
    if codes is not None:
        top, left, share = best_box(codes, side, side)
        return Box(top, left, side, side), share
    if policy == "center":
        return Box((height - side) // 2, (width - side) // 2, side, side), float("nan")
    # a stream of its own: the row's generator has already chosen window, crop and flip
    rng = row_generator(config.clips.plan_seed, f"{clip.video_id} box", clip.clip_index, clip.aug_index)
    top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    return Box(top, left, side, side), float("nan")
