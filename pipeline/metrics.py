"""Mean average precision by the official Charades rule, and the submission file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVELS = (0.025, 0.975)


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


@dataclass(frozen=True)
class Scored:
    """A row of one seed.

    Attributes:
        map: on the evaluation videos as they are, in [0, 1].
        resampled: float64 (R,), on each resample of them.
    """

    map: float
    resampled: np.ndarray


@dataclass(frozen=True)
class Contrast:
    """Row a minus row b, mAP in [0, 1], over the seeds that both have; NaN where there is none.

    Attributes:
        delta: mean over seeds of the difference.
        low, high: 2.5 % and 97.5 % points of that mean over resamples of the videos.
        seeds_won: seeds in which a is above b.
    """

    num_seeds: int
    delta: float
    low: float
    high: float
    seeds_won: int


def resamples(num_videos: int, count: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each video is drawn, int64 (V, R): R times V videos with replacement. All rows use the same draws."""
    return np.random.default_rng(seed).multinomial(num_videos, np.full(num_videos, 1 / num_videos), count).T.copy()


def resampled_maps(scores: np.ndarray, targets: np.ndarray, times: np.ndarray) -> np.ndarray:
    """mAP by the official rule on every resample at once: the mean of `resampled_precisions` over classes.

    A class without a positive in a resample is left out of its mean.

    Returns:
        float64 (R,); NaN for a resample without any positive.
    """
    return mean_over_classes(resampled_precisions(scores, targets, times))


def mean_over_classes(precisions: np.ndarray) -> np.ndarray:
    """mAP of every resample from AP by class, float64 (C, R) to (R,): classes that are NaN are left out."""
    known = ~np.isnan(precisions)
    total, classes = np.where(known, precisions, 0).sum(0), known.sum(0)
    return np.where(classes > 0, total / np.maximum(classes, 1), np.nan)


def resampled_precisions(scores: np.ndarray, targets: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Average precision of every class by the official rule on every resample at once.

    Equals `metrics.average_precision` of each list of videos, a video drawn m times standing there m times in a row.

    Videos are ranked once per class. A positive that is drawn m times, with n videos before it of which p are
    positive, adds (p + j) / (n + j) for j = 1 .. m, which is m - (n - p) (H(n + m) - H(n)), H the harmonic numbers.

    Args:
        scores: float (V, C), in the order of the annotations.
        targets: 0 or 1, (V, C).
        times: int (V, R), see `resamples`.
    Returns:
        float64 (C, R); NaN where no positive of the class was drawn.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, times.sum(0).max() + 1))])
    ranked = np.where(targets.any(axis=1, keepdims=True), scores, -np.inf)  # a video without labels is ranked last
    found = np.full((targets.shape[1], times.shape[1]), np.nan)
    for number, (score, target) in enumerate(zip(ranked.T, targets.T.astype(bool), strict=True)):
        order = np.argsort(-score, kind="stable")
        places = np.flatnonzero(target[order])
        if not len(places):
            continue
        drawn = times[order[places]]  # of each positive
        starts = np.concatenate([[0], places[:-1] + 1])  # from behind one positive to the next
        after, hits = np.cumsum(np.add.reduceat(times[order[: places[-1] + 1]], starts), 0), np.cumsum(drawn, 0)
        others = after - hits  # negatives ranked before, for those drawn with a positive are all positive
        gained = (drawn - others * (harmonic[after] - harmonic[after - drawn])).sum(0)
        np.divide(gained, hits[-1], out=found[number], where=hits[-1] > 0)
    return found


def contrast(a: Mapping[int, Scored], b: Mapping[int, Scored]) -> Contrast:
    """Compare two rows, each given by seed: differences are taken within a seed and a resample, then averaged."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return Contrast(0, np.nan, np.nan, np.nan, 0)
    differences = np.array([a[seed].map - b[seed].map for seed in seeds])
    spread = np.mean([a[seed].resampled - b[seed].resampled for seed in seeds], axis=0)
    low, high = np.nanquantile(spread, LEVELS)
    return Contrast(len(seeds), float(differences.mean()), float(low), float(high), int((differences > 0).sum()))
