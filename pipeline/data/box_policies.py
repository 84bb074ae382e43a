"""Where the box of a clip lies. Stage 1 and training on the fly ask the same function, so both cut the same."""

import numpy as np

from cache.geometry import Box, Clip
from models.box_search import best_box
from pipeline.config import Policy
from pipeline.data.sampling import row_generator


def find_box(
    clip: Clip, policy: Policy, side: int, seeds: tuple[int, int], codes: np.ndarray | None
) -> tuple[Box, float]:
    """Find the box of one clip.

    Args:
        policy: an objective takes the best box of its map (eq. 6); "random" draws one; "center" takes the middle.
        side: height and width of the box, pixels of the input frame.
        seeds: of "random" boxes, those of the plan and of the training.
        codes: the objective's saliency map as stored, uint16 (H_in, W_in); None for "random" and "center".
    Returns:
        box_input, and the share of the map's sum inside it (NaN without a map).
    """
    if codes is not None:
        top, left, share = best_box(codes, side, side)
        return Box(top, left, side, side), share
    height, width = clip.theta.input_size
    if policy == "center":
        return Box((height - side) // 2, (width - side) // 2, side, side), float("nan")
    # a generator of its own: the row's own one has already chosen window, crop and flip
    plan_seed, seed = seeds
    what = f"{clip.video_id} box {seed}" if seed else f"{clip.video_id} box"
    rng = row_generator(plan_seed, what, clip.clip_index, clip.aug_index)
    top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    return Box(top, left, side, side), float("nan")
