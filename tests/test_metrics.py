"""mAP against numbers by hand, brute force and itself resampled: ties, unlabelled and absent videos, the submission."""

import math

import numpy as np
import pytest

from pipeline.metrics import (
    Scored,
    average_precision,
    contrast,
    map_official,
    mean_average_precision,
    resampled_maps,
    resamples,
    submission,
)

# three videos, two classes: the first class ranks 0, 1, 2, the second 2, 1, 0
SCORES = np.array([[0.9, 0.1], [0.5, 0.2], [0.1, 0.9]])
TARGETS = np.array([[1, 0], [0, 1], [1, 0]])


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


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((1, 1, 1), ((1 + 2 / 3) / 2 + 1 / 2) / 2),
        ((0, 2, 1), (1 / 3 + (1 / 2 + 2 / 3) / 2) / 2),  # first class: no, no, yes; second: no, yes, yes
        ((1, 0, 2), 1),  # the second class has no positive and is left out
        ((2, 1, 0), (1 + 1 / 1) / 2),
    ],
)
def test_resampled_maps_by_hand(times, expected):
    assert resampled_maps(SCORES, TARGETS, np.array(times)[:, None]) == pytest.approx([expected], abs=1e-12)


def test_resampled_maps_equal_the_plain_metric_on_every_resample():
    rng = np.random.default_rng(3)
    targets = (rng.random((11, 5)) < 0.3).astype(int)
    targets[4] = 0  # without labels: ranked last, whatever its scores
    targets[:, 2] = [1, *[0] * 10]  # a class that many resamples lose
    scores = rng.integers(0, 4, (11, 5)) / 4  # many ties
    scores[4] = 1
    times = resamples(11, 300, seed=5)
    lists = [np.repeat(np.arange(11), column) for column in times.T]
    plain = [mean_average_precision(scores[chosen], targets[chosen]) for chosen in lists]
    assert len({one.num_classes for one in plain}) > 1
    np.testing.assert_allclose(resampled_maps(scores, targets, times), [one.map for one in plain], rtol=0, atol=1e-12)


def test_a_resample_without_any_positive_is_nan():
    assert np.isnan(resampled_maps(SCORES, np.zeros((3, 2), int), np.ones((3, 1), int))).all()


def test_resamples_draw_with_replacement_and_repeat_themselves():
    times = resamples(7, 500)
    assert times.shape == (7, 500)
    assert (times.sum(0) == 7).all() and times.max() > 2
    assert times.mean(1) == pytest.approx(np.ones(7), abs=0.2)
    assert (times == resamples(7, 500)).all()


def test_contrast_by_hand():
    a = {0: Scored(0.6, np.array([0.0, 0.1, 0.2, 0.3, 0.4])), 1: Scored(0.8, np.full(5, 0.5)), 5: Scored(0, np.ones(5))}
    b = {0: Scored(0.5, np.zeros(5)), 1: Scored(0.9, np.array([0.5, 0.4, 0.3, 0.2, 0.1])), 7: Scored(1, np.ones(5))}
    found = contrast(a, b)  # seeds 0 and 1; their resampled means of differences are 0, 0.1, 0.2, 0.3, 0.4
    assert (found.num_seeds, found.seeds_won) == (2, 1)
    assert found.delta == pytest.approx(0.0)
    assert (found.low, found.high) == pytest.approx((0.01, 0.39))
    swapped = contrast(b, a)
    assert (swapped.low, swapped.high) == pytest.approx((-0.39, -0.01))


def test_contrast_is_paired():
    """Both rows swing with the videos drawn, their difference does not."""
    swing = np.random.default_rng(0).random(2000)
    found = contrast({0: Scored(0.7, swing + 0.1)}, {0: Scored(0.6, swing)})
    assert (found.delta, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_contrast_with_no_seed_in_common():
    found = contrast({0: Scored(0.5, np.ones(3))}, {1: Scored(0.5, np.ones(3))})
    assert (found.num_seeds, found.seeds_won) == (0, 0)
    assert np.isnan([found.delta, found.low, found.high]).all()
