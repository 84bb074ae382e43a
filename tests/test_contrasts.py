"""The paired bootstrap, against numbers worked out by hand and against the plain metric."""

import numpy as np
import pytest

from pipeline.metrics import Scored, contrast, mean_average_precision, resampled_maps, resamples

# three videos, two classes: the first class ranks 0, 1, 2, the second 2, 1, 0
SCORES = np.array([[0.9, 0.1], [0.5, 0.2], [0.1, 0.9]])
TARGETS = np.array([[1, 0], [0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((1, 1, 1), ((1 + 2 / 3) / 2 + 1 / 2) / 2),
        ((0, 2, 1), (1 / 3 + (1 / 2 + 2 / 3) / 2) / 2),  # first class: no, no, yes; second: no, yes, yes
        ((1, 0, 2), 1),  # the second class has no positive and is left out
        ((2, 1, 0), (1 + 1 / 1) / 2),
    ],
)
def test_by_hand(times, expected):
    assert resampled_maps(SCORES, TARGETS, np.array(times)[:, None]) == pytest.approx([expected], abs=1e-12)


def test_equals_the_plain_metric_on_every_resample():
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


def test_no_positive_at_all_is_nan():
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


def test_nothing_in_common():
    found = contrast({0: Scored(0.5, np.ones(3))}, {1: Scored(0.5, np.ones(3))})
    assert (found.num_seeds, found.seeds_won) == (0, 0)
    assert np.isnan([found.delta, found.low, found.high]).all()
