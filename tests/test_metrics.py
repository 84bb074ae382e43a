"""The official metric: by hand, against brute force, ties, unlabelled and absent videos; the submission file."""

import math

import numpy as np
import pytest

from pipeline.metrics import average_precision, map_official, mean_average_precision, submission


def brute_force(scores, targets):
    """AP by counting, for each positive, who stands at or above it: higher scores, and equal ones before it."""
    precisions = []
    for i in np.flatnonzero(targets):
        above = [j for j in range(len(scores)) if scores[j] > scores[i] or (scores[j] == scores[i] and j <= i)]
        precisions.append(sum(targets[j] for j in above) / len(above))
    return sum(precisions) / len(precisions) if precisions else math.nan


def test_average_precision_by_hand():
    # ranks of the positives 1, 3, 4: (1/1 + 2/3 + 3/4) / 3
    assert average_precision([0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0]) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision([0.5, 0.9], [1, 0]) == 0.5
    assert average_precision([1, 2, 3], [1, 1, 1]) == 1
    assert math.isnan(average_precision([1, 2], [0, 0]))


def test_ties_keep_the_order_of_the_file():
    assert average_precision([0.5, 0.5, 0.5], [1, 0, 0]) == 1
    assert average_precision([0.5, 0.5, 0.5], [0, 1, 0]) == 1 / 2
    assert average_precision([0.5, 0.5, 0.5], [0, 0, 1]) == 1 / 3
    assert average_precision([-np.inf, 1, -np.inf], [1, 0, 1]) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_average_precision_against_brute_force():
    rng = np.random.default_rng(0)
    for videos in (1, 2, 7, 40):
        for _ in range(20):
            scores = rng.integers(0, 6, videos) / 4.0  # many ties
            targets = rng.integers(0, 2, videos)
            assert average_precision(scores, targets) == pytest.approx(brute_force(scores, targets), nan_ok=True)


def test_mean_average_precision_by_hand():
    targets = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    scores = np.array([[0.2, 0.9, 0.1], [0.8, 0.3, 0.2], [0.5, 0.4, 0.3], [9.0, 9.0, 9.0]])
    # the last video has no label and goes to the end: class 0 ranks 2, 0, 1 as 1st 0, then 1, 1; class 1 as 0, 1, 1
    result = mean_average_precision(scores, targets)
    assert result.per_class[:2] == pytest.approx([(1 / 2 + 2 / 3) / 2] * 2)
    assert math.isnan(result.per_class[2])
    assert result.map == pytest.approx(7 / 12)
    assert (result.num_classes, result.num_dropped) == (2, 1)
    # had it kept its scores
    assert average_precision(scores[:, 0], targets[:, 0]) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert scores[3].tolist() == [9.0, 9.0, 9.0]


def test_mean_is_over_classes_not_positives():
    targets = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    scores = np.array([[4, 4], [3, 3], [2, 2], [1, 1]])
    assert mean_average_precision(scores, targets).map == (1 + 1 / 4) / 2


def test_nothing_to_average():
    result = mean_average_precision(np.ones((2, 3)), np.zeros((2, 3)))
    assert math.isnan(result.map) and (result.num_classes, result.num_dropped) == (0, 3)


def test_absent_videos_rank_last_and_unknown_ones_are_ignored():
    ids, targets = ["c", "a", "b"], np.array([[1, 0], [1, 1], [0, 1]])
    scores = {"b": [0.1, -5.0], "a": [0.2, 0.5], "x": [9.0, 9.0]}
    # class 0: a, b, then c: (1/1 + 2/3) / 2; class 1: a, b: 1
    assert map_official(scores, ids, targets).per_class == pytest.approx([5 / 6, 1])
    # nobody scored: the order of the file
    assert map_official({}, ids, targets).per_class == pytest.approx([1, (1 / 2 + 2 / 3) / 2])


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="video 1"):
        average_precision([0.1, math.nan], [1, 0])
    with pytest.raises(ValueError, match="video 0, class 1"):
        mean_average_precision([[0.1, math.nan]], [[1, 0]])
    with pytest.raises(ValueError, match="video 0, class 1"):  # also where the video has no label
        mean_average_precision([[0.1, math.nan]], [[0, 0]])
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        average_precision([1, 2, 3], [1, 0])
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        mean_average_precision(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="scores of a"):
        map_official({"a": [1.0]}, ["a"], np.ones((1, 2)))
    with pytest.raises(ValueError, match="2 video ids"):
        map_official({}, ["a", "b"], np.ones((1, 2)))


def test_submission():
    scores = np.array([[0.5, -1.25, 1e-9], [np.float32(0.1), 2, 3]])
    content = submission(["07E49", "NA"], scores).decode()
    lines = content.splitlines()
    assert lines == ["07E49 0.5 -1.25 1e-09", "NA 0.10000000149011612 2.0 3.0"]
    assert content.endswith("\n") and "\r" not in content
    assert [float(text) for text in lines[1].split()[1:]] == scores[1].tolist()
    for ids, table in ((["a"], scores), (["a", "b"], scores * math.nan)):
        with pytest.raises(ValueError, match="rows of scores"):
            submission(ids, table)
