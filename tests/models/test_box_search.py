"""Box search against brute force, on maps that are not square."""

import math

import numpy as np
import pytest

from models.box_search import best_box, quantise


def brute_force(codes, height, width):
    best, where = -1, None
    for top in range(codes.shape[0] - height + 1):
        for left in range(codes.shape[1] - width + 1):
            total = sum(int(code) for row in codes[top : top + height] for code in row[left : left + width])
            if total > best:
                best, where = total, (top, left)
    return *where, best / sum(int(code) for code in codes.flat)


@pytest.mark.parametrize("shape", [(7, 11), (11, 7), (5, 5)])
@pytest.mark.parametrize("box", [(2, 3), (3, 2), (1, 1), (5, 5), (4, 1)])
@pytest.mark.parametrize("largest", [2, 65535])  # 2: many equal sums
def test_equals_brute_force(shape, box, largest):
    rng = np.random.default_rng([*shape, *box, largest])
    for _ in range(5):
        codes = rng.integers(0, largest, shape, endpoint=True, dtype=np.uint16)
        assert best_box(codes, *box) == pytest.approx(brute_force(codes, *box))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 10), (6, 0), (6, 10), (3, 8)])
def test_one_bright_pixel_is_inside_the_first_box_that_holds_it(row, column):
    codes = np.zeros((7, 11), np.uint16)
    codes[row, column] = 9
    assert best_box(codes, 2, 4) == (max(row - 1, 0), max(column - 3, 0), 1.0)


def test_equal_boxes_give_the_first_in_row_major_order():
    codes = np.zeros((6, 9), np.uint16)
    codes[1, 7] = codes[4, 0] = 5
    assert best_box(codes, 1, 1) == (1, 7, 0.5)
    assert best_box(np.full((6, 9), 3, np.uint16), 2, 3) == (0, 0, 6 / 54)


def test_map_of_zeros_has_no_share():
    top, left, share = best_box(np.zeros((6, 9), np.uint16), 2, 3)
    assert (top, left) == (0, 0) and math.isnan(share)


def test_sums_are_exact_beyond_float32():
    """224 x 224 codes near 65535 sum to 3e9, where float32 steps by 256: one code more must decide."""
    codes = np.full((224, 224), 65534, np.uint16)
    codes[223, 223] += 1
    assert best_box(codes, 128, 128)[:2] == (96, 96)


def test_whole_map_as_box():
    assert best_box(np.arange(12, dtype=np.uint16).reshape(3, 4), 3, 4) == (0, 0, 1.0)


@pytest.mark.parametrize("box", [(4, 4), (3, 5), (0, 2), (2, 0)])
def test_box_that_does_not_fit_is_refused(box):
    with pytest.raises(ValueError, match=f"{box[0]} x {box[1]} does not fit into a map of 3 x 4"):
        best_box(np.zeros((3, 4), np.uint16), *box)


def test_codes_are_the_map_to_half_a_step():
    saliency = np.random.default_rng(0).random((7, 11), dtype=np.float32) * np.float32(3e-5)
    codes, scale = quantise(saliency)
    assert codes.dtype == np.uint16 and codes.shape == (7, 11) and isinstance(scale, np.float32)
    assert codes[np.unravel_index(saliency.argmax(), saliency.shape)] == 65535
    assert np.abs(codes * np.float64(scale) - saliency).max() <= 0.51 * scale


def test_code_rounds_to_the_nearest():
    codes, scale = quantise(np.array([[65535.0, 1.4, 1.6]], np.float32))
    assert codes.tolist() == [[65535, 1, 2]] and scale == 1


def test_map_of_zeros_has_scale_zero():
    codes, scale = quantise(np.zeros((3, 4), np.float32))
    assert not codes.any() and codes.shape == (3, 4) and scale == 0


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_impossible_maps_are_refused(value):
    with pytest.raises(ValueError, match="finite and not negative"):
        quantise(np.array([[1.0, value]], np.float32))
