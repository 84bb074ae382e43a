"""Mean average precision by the official Charades rule, and the submission file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MAP:
    """Mean average precision and what it is the mean of.

    Attributes:
        map: mean over the classes that have a positive; NaN when none has.
        per_class: float64 (C,); NaN for a class without positives.
        num_classes: classes in the mean.
        num_dropped: classes left out of it because no video is positive.
    """

    map: float
    per_class: np.ndarray
    num_classes: int
    num_dropped: int


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean, over the positives, of the precision at each one's own rank; no interpolation.

    Videos are ranked by falling score; equal scores keep their order.

    Args:
        scores: float (V,), minus infinity allowed.
        targets: 0 or 1, (V,).
    Returns:
        AP in [0, 1]; NaN without a positive.
    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if scores.shape != targets.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must both be (V,)")
    if np.isnan(scores).any():
        raise ValueError(f"the score of video {np.isnan(scores).argmax()} is NaN")
    ranks = 1 + np.flatnonzero(targets[np.argsort(-scores, kind="stable")])
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else float("nan")


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> MAP:
    """Plain mean of the classes' AP. A video without any label is ranked last in every class, whatever its scores.

    Args:
        scores: float (V, C), videos in the order of the annotation file.
        targets: 0 or 1, (V, C).
    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must both be (V, C)")
    if np.isnan(scores).any():
        video, label = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"the score of video {video}, class {label} is NaN")
    ranked = np.where(targets.any(axis=1, keepdims=True), scores, -np.inf)
    per_class = np.array([average_precision(*columns) for columns in zip(ranked.T, targets.T, strict=True)])
    counted = per_class[~np.isnan(per_class)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return MAP(mean, per_class, len(counted), len(per_class) - len(counted))


def map_official(scores: Mapping[str, np.ndarray], video_ids: Sequence[str], targets: np.ndarray) -> MAP:
    """mean_average_precision of scores by id, over all annotated videos.

    A video without scores is not left out: it is ranked last. Scores of unknown ids are ignored.

    Args:
        scores: video id -> float (C,).
        video_ids: all videos of the split in the order of the annotation file, which breaks ties.
        targets: 0 or 1, (V, C), in the same order.
    Raises:
        ValueError: shapes do not fit, or a score is NaN.
    """
    if len(video_ids) != len(targets):
        raise ValueError(f"{len(video_ids)} video ids and {len(targets)} rows of targets")
    table = np.full(np.shape(targets), -np.inf)
    for row, video_id in enumerate(video_ids):
        if video_id in scores:
            if np.shape(scores[video_id]) != table.shape[1:]:
                raise ValueError(f"scores of {video_id}: {np.shape(scores[video_id])}, expected {table.shape[1:]}")
            table[row] = scores[video_id]
    return mean_average_precision(table, targets)


def submission(video_ids: Sequence[str], scores: np.ndarray) -> bytes:
    """The official submission format: one line a video, its id and then its C scores, separated by spaces.

    Args:
        video_ids: V ids.
        scores: float (V, C); printed so that reading gives the same float64.
    Raises:
        ValueError: the lengths differ, or a score is NaN.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or len(video_ids) != len(scores) or np.isnan(scores).any():
        raise ValueError(f"{len(video_ids)} video ids need as many rows of scores without NaN, got {scores.shape}")
    lines = zip(video_ids, scores.tolist(), strict=True)
    return "".join(f"{video_id} {' '.join(map(repr, row))}\n" for video_id, row in lines).encode()
