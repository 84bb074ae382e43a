"""Paired bootstrap over evaluation videos: the difference of two rows in mAP, with a 95 % interval."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVELS = (0.025, 0.975)


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
