"""Mean average precision by the official Charades rule (Charades_v1_classify.m), accuracies, differences of models.

A difference has a percentile interval of the paired bootstrap over videos (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVELS = (0.025, 0.975)  # ends of the interval


@dataclass(frozen=True)
class MAP:
    """Mean average precision and what it is the mean of.

    Attributes:
        map: mean over the classes that have a positive; NaN when none has.
        per_class: float64 (C,); NaN for a class without positives.
        num_classes: in the mean.
        num_dropped: classes without positives, which are not in the mean.
    """

    map: float
    per_class: np.ndarray
    num_classes: int
    num_dropped: int


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average the precision at the rank of each positive, without interpolation.

    Videos are ranked by falling score; equal scores keep their order. With the positives at ranks r_1 < .. < r_P,
    AP = (1 / r_1 + 2 / r_2 + .. + P / r_P) / P.

    Args:
        scores: float (V,), one a video; minus infinity is allowed.
        targets: (V,), 1 for a positive video, else 0.
    Returns:
        AP in [0, 1]; NaN without a positive.
    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    scores, targets = _checked(scores, targets, ("video",), "(V,)")
    ranks = 1 + np.flatnonzero(targets[np.argsort(-scores, kind="stable")])
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else float("nan")


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> MAP:
    """Average AP over the classes that have a positive. A video without any label is ranked last in every class.

    Args:
        scores: float (V, C), V videos in the order of the annotation file, C classes.
        targets: (V, C), 1 where the video has the class, else 0.
    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    scores, targets = _checked(scores, targets, ("video", "class"), "(V, C)")
    ranked = np.where(targets.any(axis=1, keepdims=True), scores, -np.inf)
    per_class = np.array([average_precision(*columns) for columns in zip(ranked.T, targets.T, strict=True)])
    counted = per_class[~np.isnan(per_class)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return MAP(mean, per_class, len(counted), len(per_class) - len(counted))


def _checked(scores: np.ndarray, targets: np.ndarray, axes: tuple[str, ...], shape: str) -> tuple:
    """Return both as arrays, if they have these axes and no score is NaN; `shape` is for the error message."""
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if scores.shape != targets.shape or scores.ndim != len(axes):
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must both be {shape}")
    for place in np.argwhere(np.isnan(scores)):
        where = ", ".join(f"{axis} {number}" for axis, number in zip(axes, place, strict=True))
        raise ValueError(f"the score of {where} is NaN")
    return scores, targets


def map_official(scores: Mapping[str, np.ndarray], video_ids: Sequence[str], targets: np.ndarray) -> MAP:
    """Compute `mean_average_precision` of all videos of a split; a video without scores is ranked last.

    Args:
        scores: video id -> float (C,); other ids are ignored.
        video_ids: all videos in the order of the annotation file, which breaks ties.
        targets: (V, C), 1 or 0, in the same order.
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


def top_k_hits(scores: np.ndarray, targets: np.ndarray, k: int = 1) -> np.ndarray:
    """Say of each video whether its class is among those with the k highest scores.

    Of equal scores the later class is the higher one, as in scikit-learn's top_k_accuracy_score.

    Args:
        scores: float (V, C).
        targets: (V, C), 1 for the one class of each video, else 0.
    Returns:
        bool (V,); its mean is the top-k accuracy.
    Raises:
        ValueError: shapes differ, a score is NaN, or a video has not exactly one class.
    """
    scores, targets = _checked(scores, targets, ("video", "class"), "(V, C)")
    if (wrong := np.flatnonzero(targets.sum(1) != 1)).size:
        raise ValueError(f"video {wrong[0]} has {int(targets[wrong[0]].sum())} classes, not one")
    highest = np.argsort(scores, axis=1, kind="stable")[:, ::-1][:, :k]
    return np.take_along_axis(targets, highest, axis=1).any(axis=1)


def mean_class_accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average the top-1 accuracy over the classes that have a video (scikit-learn's balanced_accuracy_score).

    Arguments and errors as `top_k_hits`.
    """
    right = np.asarray(targets) * top_k_hits(scores, targets)[:, None]
    counts = np.sum(targets, axis=0)
    return float(np.mean(right.sum(0)[counts > 0] / counts[counts > 0]))


def submission(video_ids: Sequence[str], scores: np.ndarray) -> bytes:
    """Write scores in the official submission format: a line a video, its id and its C scores, separated by spaces.

    Args:
        video_ids: V ids.
        scores: float (V, C); printed with as many digits as float64 needs.
    Returns:
        the content of the file, UTF-8.
    Raises:
        ValueError: the lengths differ, or a score is NaN.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or len(video_ids) != len(scores) or np.isnan(scores).any():
        raise ValueError(f"{len(video_ids)} video ids need as many rows of scores without NaN, got {scores.shape}")
    lines = zip(video_ids, scores.tolist(), strict=True)
    return "".join(f"{video_id} {' '.join(map(repr, row))}\n" for video_id, row in lines).encode()


@dataclass(frozen=True)
class Scored:
    """mAP, or another metric, in [0, 1] of one training: on the evaluation videos, and float64 (R,) on R resamples."""

    map: float
    resampled: np.ndarray


@dataclass(frozen=True)
class Contrast:
    """mAP, or another metric, of a minus that of b.

    Attributes:
        num_seeds: seeds that both have; without any, the other numbers are NaN.
        delta: mean difference over seeds, in [-1, 1].
        low, high: 2.5 % and 97.5 % points of the mean difference over resamples of the videos.
        seeds_won: seeds in which a is above b.
    """

    num_seeds: int
    delta: float
    low: float
    high: float
    seeds_won: int


def resamples(num_videos: int, count: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Draw V of V videos with replacement, R = `count` times; the same arguments give the same draws.

    Returns:
        int64 (V, R), how often each video is drawn.
    """
    return np.random.default_rng(seed).multinomial(num_videos, np.full(num_videos, 1 / num_videos), count).T.copy()


def resampled_maps(scores: np.ndarray, targets: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Compute mAP on every resample, float64 (R,), NaN without any positive; see `resampled_precisions`."""
    return mean_over_classes(resampled_precisions(scores, targets, times))


def resampled_top1(scores: np.ndarray, targets: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Compute the top-1 accuracy on every resample, float64 (R,); see `top_k_hits` and `resampled_precisions`."""
    return top_k_hits(scores, targets) @ times / times.sum(0)


def mean_over_classes(precisions: np.ndarray) -> np.ndarray:
    """Average AP over classes in each resample, float64 (C, R) to (R,); classes that are NaN there are left out."""
    known = ~np.isnan(precisions)
    total, classes = np.where(known, precisions, 0).sum(0), known.sum(0)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def resampled_precisions(scores: np.ndarray, targets: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Compute AP of every class on every resample, as if a video that is drawn m times stood m times in a row.

    Each class is ranked only once: a positive that is drawn m times, after n drawn videos of which p are positive, adds
    the precisions (p + j) / (n + j) for j = 1 .. m. Their sum is m - (n - p) (H(n + m) - H(n)), where H(k) = 1 + 1/2 +
    .. + 1/k.

    Args:
        scores: float (V, C), in the order of the annotation file.
        targets: (V, C), 1 or 0.
        times: int (V, R), how often each video is drawn; see `resamples`.
    Returns:
        float64 (C, R); NaN where no positive of the class was drawn.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, times.sum(0).max() + 1))])
    ranked = np.where(targets.any(axis=1, keepdims=True), scores, -np.inf)  # videos without any label come last
    found = np.full((targets.shape[1], times.shape[1]), np.nan)
    for number, (score, target) in enumerate(zip(ranked.T, targets.T.astype(bool), strict=True)):
        order = np.argsort(-score, kind="stable")
        places = np.flatnonzero(target[order])
        if not len(places):
            continue
        drawn = times[order[places]]  # m of each positive, (P, R)
        starts = np.concatenate([[0], places[:-1] + 1])  # of each positive with the negatives just before it
        after = np.cumsum(np.add.reduceat(times[order[: places[-1] + 1]], starts), 0)  # n + m
        hits = np.cumsum(drawn, 0)  # p + m
        negatives = after - hits  # n - p
        gained = (drawn - negatives * (harmonic[after] - harmonic[after - drawn])).sum(0)
        np.divide(gained, hits[-1], out=found[number], where=hits[-1] > 0)
    return found


def contrast(a: Mapping[int, Scored], b: Mapping[int, Scored]) -> Contrast:
    """Compare two models, each given as seed -> `Scored` on the same resamples; average the differences over seeds."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return Contrast(0, np.nan, np.nan, np.nan, 0)
    differences = np.array([a[seed].map - b[seed].map for seed in seeds])
    spread = np.mean([a[seed].resampled - b[seed].resampled for seed in seeds], axis=0)
    low, high = np.nanquantile(spread, LEVELS)
    return Contrast(len(seeds), float(differences.mean()), float(low), float(high), int((differences > 0).sum()))
