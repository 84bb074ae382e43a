"""Scores of windows to segments.

1. The score of a moment for a class is the mean over the windows that cover it. So where neighbouring windows no longer
   see an action, the segment ends, although the windows before still hold a part of it.
2. A segment begins and ends where this score crosses LOW times the class's threshold, and reaches the threshold in
   between (hysteresis): a dip below the threshold does not break it.
3. Segments of a class are merged over gaps of less than `merge_seconds`, then those shorter than `min_seconds` go.
4. The score of a segment is its highest moment's.
5. With one label a moment, as where the classes exclude each other, a moment counts for its highest class only, and
   nothing is merged.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

LOW = 0.75
COLUMNS = ["start", "end", "label", "score"]


@dataclass(frozen=True)
class Rule:
    """How segments are made; see the top of this file."""

    merge_seconds: float = 0.5
    min_seconds: float = 0.0
    one_label: bool = False


DEFAULT_RULE = Rule()


def moments(starts: np.ndarray, ends: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average over the windows that cover each stretch of time between two edges of windows.

    Args:
        starts, ends: seconds, float (W,).
        scores: float (W, C).
    Returns:
        edges, seconds, float (E + 1,) rising; means, float64 (E, C), NaN where no window is.
    """
    edges = np.unique(np.concatenate([starts, ends]))
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, ends)
    total, count = np.zeros((len(edges), scores.shape[1])), np.zeros(len(edges))
    for places, sign in ((first, 1), (last, -1)):
        np.add.at(total, places, sign * scores)
        np.add.at(count, places, sign)
    total, count = total.cumsum(0)[:-1], count.cumsum()[:-1, None]
    return edges, np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def segments(windows: pd.DataFrame, thresholds: pd.Series, rule: Rule = DEFAULT_RULE) -> pd.DataFrame:
    """Return the segments of a video, start, end (seconds), label and score, by start and class.

    Args:
        windows: start, end, and a column of scores in [0, 1] for every class of `thresholds`.
        thresholds: by class.
    """
    classes = list(thresholds.index)
    edges, means = moments(*(windows[name].to_numpy(float) for name in ("start", "end")), windows[classes].to_numpy())
    if rule.one_label:
        means = np.where(means == means.max(1, keepdims=True), means, np.nan)
    found, gap = [], 0.0 if rule.one_label else rule.merge_seconds
    for label, scores, threshold in zip(classes, means.T, thresholds, strict=True):
        spans = _merged(_runs(scores, threshold), edges, gap)
        for first, last in spans:
            if edges[last] - edges[first] >= rule.min_seconds:
                found.append((edges[first], edges[last], label, np.nanmax(scores[first:last])))
    return pd.DataFrame(found, columns=COLUMNS).sort_values("start", kind="stable", ignore_index=True)


def _runs(scores: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Return [first, last) of the runs of moments above the lower threshold that reach the threshold."""
    above = np.concatenate([[False], scores >= LOW * threshold, [False]])  # NaN is not
    ends = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)
    return [(first, last) for first, last in ends.tolist() if np.nanmax(scores[first:last]) >= threshold]


def _merged(spans: list[tuple[int, int]], edges: np.ndarray, gap: float) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        if merged and edges[first] - edges[merged[-1][1]] < gap:
            first = merged.pop()[0]
        merged.append((first, last))
    return merged
