"""Intersection over union of boxes, by numbers worked out by hand."""

import numpy as np
import pytest

from cache.geometry import iou, mean_iou


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 4), (0, 0, 4, 4), 1),  # the same box
        ((0, 0, 4, 4), (2, 1, 4, 4), 6 / 26),  # 2 x 3 of 16 + 16 pixels
        ((0, 0, 2, 4), (1, 0, 2, 4), 4 / 12),  # one row of 4 of 8 + 8 pixels
        ((0, 0, 2, 4), (0, 1, 2, 4), 6 / 10),  # the same, shifted along the other axis
        ((1, 1, 2, 2), (0, 0, 4, 8), 4 / 32),  # one inside the other
        ((1, 2, 4, 4), (5, 2, 4, 4), 0),  # they touch below
        ((0, 0, 2, 2), (0, 2, 2, 2), 0),  # they touch at the right
        ((0, 0, 2, 2), (3, 3, 2, 2), 0),  # apart along both axes
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_iou_by_hand(a, b, expected, dtype):
    a, b = np.array([a], dtype), np.array([b], dtype)
    assert iou(a, b).tolist() == iou(b, a).tolist() == [pytest.approx(expected)]


def test_iou_goes_box_by_box():
    a = np.array([[0, 0, 2, 4], [0, 0, 2, 2], [0, 0, 2, 2]])
    b = np.array([[1, 0, 2, 4], [2, 0, 2, 2], [0, 0, 2, 2]])
    found = iou(a, b)
    assert found.dtype == np.float64 and found.tolist() == pytest.approx([4 / 12, 0, 1])
    assert iou(a[:0], b[:0]).shape == (0,)


def test_mean_iou_by_hand():
    a = np.array([[0, 0, 2, 4], [5, 5, 2, 2], [0, 0, 0, 0], [3, 1, 2, 3]])
    b = np.array([[1, 2, 2, 4], [5, 7, 2, 2], [0, 0, 2, 2], [3, 1, 2, 3]])
    # 2 of 14 pixels, none, left out, all
    assert mean_iou([a], [b]) == mean_iou([b], [a]) == pytest.approx((1 / 7 + 0 + 1) / 3)
    assert mean_iou([a[:1], a[3:]], [b[:1], b[3:]]) == pytest.approx((1 / 7 + 1) / 2)
