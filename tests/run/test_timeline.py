"""Segments by hand."""

import numpy as np
import pandas as pd
import pytest

from pipeline.run.timeline import Rule, moments, segments

WINDOWS = pd.DataFrame(
    {"start": [0.0, 1.0, 2.0, 3.0, 4.0], "end": [2.0, 3.0, 4.0, 5.0, 6.0], "a": [0.9, 0.7, 0.1, 0.1, 0.9], "b": 0.2}
)
HALF = pd.Series({"a": 0.5, "b": 0.5})


def spans(found):
    return found[["start", "end", "label"]].to_numpy().tolist()


def test_the_score_of_a_moment_is_the_mean_of_the_windows_that_cover_it():
    edges, means = moments(np.array([0, 1.0, 5]), np.array([2, 3.0, 6]), np.array([[0.8], [0.2], [1.0]]))
    assert edges.tolist() == [0, 1, 2, 3, 5, 6]
    np.testing.assert_allclose(means[:, 0], [0.8, 0.5, 0.2, np.nan, 1.0])


def test_segments_end_where_the_next_windows_see_nothing_more():
    """Moments of a: 0.9, 0.8, 0.4, 0.1, 0.5, 0.9. The lower threshold is 0.375, so the third second belongs to it."""
    found = segments(WINDOWS, HALF)
    assert spans(found) == [[0, 3, "a"], [4, 6, "a"]]
    np.testing.assert_allclose(found.score, [0.9, 0.9])
    assert spans(segments(WINDOWS, HALF + 0.25)) == [[0, 2, "a"], [5, 6, "a"]]  # from 0.5625 on
    assert spans(segments(WINDOWS, HALF + 0.42)) == []  # 0.9 does not reach it


def test_gaps_are_joined_before_short_ones_go():
    assert spans(segments(WINDOWS, HALF, Rule(merge_seconds=1.0))) == [[0, 3, "a"], [4, 6, "a"]]  # less than, not equal
    assert spans(segments(WINDOWS, HALF, Rule(merge_seconds=1.1))) == [[0, 6, "a"]]
    assert spans(segments(WINDOWS, HALF, Rule(min_seconds=2.5))) == [[0, 3, "a"]]
    assert spans(segments(WINDOWS, HALF, Rule(1.1, 5.5))) == [[0, 6, "a"]]


def test_one_label_a_moment():
    """b, 0.2 everywhere, is the highest only in the fourth second, 0.1 of a."""
    low = pd.Series({"a": 0.1, "b": 0.1})
    assert spans(segments(WINDOWS, low)) == [[0, 6, "a"], [0, 6, "b"]]
    assert spans(segments(WINDOWS, low, Rule(one_label=True))) == [[0, 3, "a"], [3, 4, "b"], [4, 6, "a"]]
    zero = Rule(merge_seconds=2.0, one_label=True)  # every moment has its label, and no other
    assert spans(segments(WINDOWS, low * 0, zero)) == [[0, 3, "a"], [3, 4, "b"], [4, 6, "a"]]


@pytest.mark.parametrize("count", [1, 3600])
def test_windows_of_an_hour(count):
    starts = np.arange(count, dtype=float)
    table = pd.DataFrame({"start": starts, "end": starts + 8, "a": 0.6})
    assert spans(segments(table, pd.Series({"a": 0.6 - 1e-9}))) == [[0, count + 7, "a"]]
