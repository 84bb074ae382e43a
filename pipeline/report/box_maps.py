"""Statistics of boxes: where they lie, how large they are, how much those of two stores overlap."""

from dataclasses import dataclass

import numpy as np

from cache.geometry import iou
from pipeline.report.chosen_stores import Boxes

QUANTILES = (0.05, 0.5, 0.95)


def coverage(box_input: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share of boxes that cover each pixel of the input frame.

    Args:
        box_input: int (N, 4) or, of k boxes a clip, (N, k, 4): top, left, height, width.
        size: (height, width) of the input frame.
    Returns:
        float64 (height, width) in [0, 1].
    """
    corners = np.zeros((size[0] + 1, size[1] + 1), np.int64)
    box_input = box_input.reshape(-1, 4).astype(np.int64)
    top, left, height, width = box_input.T
    bottom, right = top + height, left + width
    for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (bottom, left, -1), (top, right, -1)):
        np.add.at(corners, (rows, columns), sign)
    return corners.cumsum(0).cumsum(1)[:-1, :-1] / max(len(box_input), 1)


@dataclass(frozen=True)
class Overlap:
    """Boxes of two stores on the clips that both have: number of clips, mean IoU, share with an IoU of at least 1/2."""

    num_clips: int
    mean: float
    half: float


def overlap(a: Boxes, b: Boxes) -> Overlap | None:
    """How much the boxes of two stores agree, of several the first; None where they have no clip in common."""
    _, in_a, in_b = np.intersect1d(a.rows, b.rows, assume_unique=True, return_indices=True)
    if not len(in_a):
        return None
    ours, theirs = (one.box_input.reshape(len(one.rows), -1, 4)[:, 0] for one in (a, b))
    found = iou(ours[in_a], theirs[in_b])
    return Overlap(len(found), float(found.mean()), float((found >= 0.5).mean()))


def sizes(boxes: Boxes, focus_size: tuple[int, int]) -> dict[str, float | list[float]]:
    """Sizes of the boxes of a store in source pixels; focus_size is (height, width) of the focused volume.

    Returns:
        height, width: 5 %, 50 % and 95 % points. short: share of the boxes that have fewer pixels along an axis than
        the focused volume, so that they are enlarged. share: mean share of the saliency inside; NaN without maps.
    """
    extent = boxes.box_source.reshape(-1, 4)[:, 2:]
    height, width = (np.quantile(column, QUANTILES).tolist() for column in extent.T)
    known, short = boxes.share[~np.isnan(boxes.share)], (extent < focus_size).any(axis=1).mean()
    share = float(known.mean()) if len(known) else float("nan")
    return {"height": height, "width": width, "short": float(short), "share": share}
