"""Where to look: which boxes and pixels there are, how a network looks, and the box that follows. No store is opened.

Stage 1 and training on the fly call the same functions, so that both look at the same places.
"""

import numpy as np

from cache.geometry import Box, Clip
from models.box_search import best_box
from pipeline.config import Config, Policy
from pipeline.data.sampling import row_generator


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
