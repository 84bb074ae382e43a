"""Rules of boxes on constructed maps that are not square: a swapped axis, order, side or suppression shows."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from cache.geometry import Box, Clip, Theta
from models.motion import motion_maps
from pipeline.config import Saliency
from pipeline.data.box_policies import find_boxes
from pipeline.data.own_boxes import OwnRow

SIZE = (20, 30)  # height, width of the input frame


def clip(video_id="v", aug_index=0):
    return Clip(video_id, 0, aug_index, (0, 1), Theta((40, 60), SIZE, 0, 0, SIZE, False))


def blobs(*places):
    """A map with rectangles of a height: (top, left, rows, columns, height)."""
    codes = np.zeros(SIZE, np.uint16)
    for top, left, rows, columns, height in places:
        codes[top : top + rows, left : left + columns] = height
    return codes


def edges(found):
    return [(box.top, box.left, box.height, box.width) for box, _ in found]


def shares(found):
    return [share for _, share in found]


def find(codes, policy="entropy", seeds=(0, 0), **settings):
    return find_boxes(clip(), policy, Saliency(**settings), seeds, codes)


def test_fixed_takes_the_one_best_box():
    found = find(blobs((3, 20, 4, 4, 9), (12, 2, 4, 4, 8)), box_side=4)
    assert edges(found) == [(3, 20, 4, 4)] and shares(found) == [9 / 17]


def test_top_k_takes_the_best_box_of_what_is_left():
    """The second best place lies beside the first; without suppression it would be taken, and it holds less alone."""
    codes = blobs((3, 20, 4, 4, 9), (12, 2, 4, 4, 5), (2, 8, 4, 4, 2))
    found = find(codes, box_rule="top-k", num_boxes=3, box_side=4)
    assert edges(found) == [(3, 20, 4, 4), (12, 2, 4, 4), (2, 8, 4, 4)]
    assert shares(found) == [9 / 16, 5 / 16, 2 / 16]


def test_top_k_sees_zeros_where_the_first_box_lies():
    """A wide bar of 4 x 6: the first box takes its left end, of what is left only two columns count."""
    codes = blobs((3, 10, 4, 6, 9), (12, 2, 4, 3, 7))
    found = find(codes, box_rule="top-k", num_boxes=3, box_side=4)
    assert edges(found) == [(3, 10, 4, 4), (12, 1, 4, 4), (3, 12, 4, 4)]  # sums 144, 84, 72
    assert shares(found)[2] == 144 / 300  # of the map as it was stored, also where an earlier box lies


def test_top_k_repeats_the_first_box_where_nothing_is_left():
    found = find(blobs((3, 20, 2, 2, 9)), box_rule="top-k", num_boxes=2, box_side=4)
    assert edges(found) == [(1, 18, 4, 4)] * 2
    empty = find(blobs(), box_rule="top-k", num_boxes=2, box_side=4)
    assert edges(empty) == [(0, 0, 4, 4)] * 2 and all(map(math.isnan, shares(empty)))


@pytest.mark.parametrize("side, others", [(3, (7, 12)), (7, (12, 3)), (12, (3, 7))])
def test_scale_takes_the_side_of_the_blob(side, others):
    found = find(blobs((5, 11, side, side, 9)) + 1, box_rule="scale", box_sides=(*others, side))
    assert edges(found) == [(5, 11, side, side)]


def test_scale_weighs_what_a_larger_box_adds():
    """Two spots 4 rows apart: a box of 8 holds both. It gains where the second spot has more than its area's share."""
    for height, side in ((1, 2), (5, 8)):
        codes = blobs((2, 3, 2, 2, 9), (8, 3, 2, 2, height))
        small, large = Fraction(36, 36 + 4 * height) - Fraction(4, 600), 1 - Fraction(64, 600)
        assert (large > small) == (side == 8)
        assert edges(find(codes, box_rule="scale", box_sides=(2, 8)))[0][2:] == (side, side)


def test_scale_takes_the_smallest_of_equals():
    assert edges(find(blobs((0, 0, *SIZE, 5)), box_rule="scale", box_sides=(9, 4, 6))) == [(0, 0, 4, 4)]
    assert edges(find(blobs(), box_rule="scale", box_sides=(9, 4, 6))) == [(0, 0, 6, 6)]  # without a map the middle one


def test_nested_boxes_have_one_centre():
    found = find(blobs((6, 14, 6, 6, 9)), box_rule="nested", box_sides=(10, 2, 6))
    assert edges(found) == [(8, 16, 2, 2), (6, 14, 6, 6), (4, 12, 10, 10)]
    assert shares(found) == [4 / 36, 1, 1]
    two = find(blobs((6, 14, 6, 6, 9)), box_rule="nested", box_sides=(2, 6))
    assert edges(two) == [(6, 14, 2, 2), (4, 12, 6, 6)]  # the lower of two is the middle one
    in_the_corner = find(blobs((14, 0, 6, 6, 9)), box_rule="nested", box_sides=(2, 6, 10))
    assert edges(in_the_corner) == [(16, 2, 2, 2), (14, 0, 6, 6), (10, 0, 10, 10)]  # the wide one is moved inside


def test_center_and_random_follow_the_rule():
    assert edges(find(None, "center", box_side=4)) == [(8, 13, 4, 4)]
    assert edges(find(None, "center", box_rule="nested", box_sides=(4, 8))) == [(8, 13, 4, 4), (6, 11, 8, 8)]
    assert edges(find(None, "center", box_rule="scale", box_sides=(2, 4, 8))) == [(8, 13, 4, 4)]
    one = edges(find(None, "random", box_side=4))
    several = edges(find(None, "random", box_side=4, box_rule="top-k", num_boxes=3))
    assert several[:1] == one and len(set(several)) == 3  # the first is the one of before there were rules
    assert all(math.isnan(share) for share in shares(find(None, "random", box_side=4)))


def test_margin_grows_a_box_on_every_side_and_stays_inside():
    codes = blobs((6, 14, 4, 4, 9), (0, 24, 1, 6, 1))
    found = find(codes, box_side=4, box_margin=0.5)
    assert edges(found) == [(4, 12, 8, 8)] and shares(found) == [144 / 150]
    assert edges(find(blobs((0, 26, 4, 4, 9)), box_side=4, box_margin=0.5)) == [(0, 22, 8, 8)]
    assert edges(find(codes, box_side=4, box_margin=10.0)) == [(0, 0, 20, 30)]  # never larger than the frame


def test_jitter_moves_boxes_by_row_and_not_further():
    codes = blobs((8, 14, 4, 4, 9))
    settings = Saliency(box_side=4, box_jitter=2)
    moved = [edges(find_boxes(clip(aug_index=one), "entropy", settings, (0, 0), codes))[0] for one in range(40)]
    assert {top - 8 for top, *_ in moved} == {left - 14 for _, left, *_ in moved} == {-2, -1, 0, 1, 2}
    assert moved[0] == edges(find_boxes(clip(), "entropy", settings, (0, 0), codes))[0]
    assert moved != [edges(find_boxes(clip(aug_index=one), "entropy", settings, (1, 0), codes))[0] for one in range(40)]
    corner = [
        find_boxes(clip(aug_index=one), "entropy", settings, (0, 0), blobs((0, 0, 4, 4, 1)))[0][0] for one in range(9)
    ]
    assert all(box.inside(SIZE) for box in corner)


def row(top, left, bottom, right, weight=1.0):
    return OwnRow(weight, tuple(map(Fraction, (top, left, bottom, right))))


def test_a_tables_rows_are_merged_or_ranked():
    """Two hands, seen twice each: `fixed` takes the mean of all, `top-k` one box a hand, the surer one first."""
    rows = [row(2, 2, 6, 6), row(12, 20, 16, 24, 3.0), row(3, 3, 7, 7), row(12, 21, 16, 25)]
    assert edges(find(rows[:1], "own", box_side=4)) == [(2, 2, 4, 4)]
    assert edges(find(rows, "own", box_side=4)) == [(9, 14, 4, 4)]  # (65, 98) / 6, less 2, rounded
    found = find(rows, "own", box_rule="top-k", num_boxes=3, box_side=4)
    assert edges(found) == [(12, 20, 4, 4), (3, 3, 4, 4), (12, 20, 4, 4)]  # no third one: the first again
    assert all(math.isnan(share) for share in shares(found))


def test_a_tables_boxes_choose_their_scale():
    assert edges(find([row(4, 9, 10, 15)], "own", box_rule="scale", box_sides=(2, 6, 12))) == [(4, 9, 6, 6)]
    assert edges(find([row(4, 9, 6, 11)], "own", box_rule="scale", box_sides=(2, 6, 12))) == [(4, 9, 2, 2)]
    nested = find([row(4, 9, 10, 15)], "own", box_rule="nested", box_sides=(2, 6, 10))
    assert edges(nested) == [(6, 11, 2, 2), (4, 9, 6, 6), (2, 7, 10, 10)]


def test_rows_outside_the_input_are_still_boxes_of_their_own():
    rows = [row(-9, -9, -5, -5), row(8, 12, 12, 16, 0.5)]
    assert edges(find(rows, "own", box_rule="top-k", num_boxes=2, box_side=4)) == [(0, 0, 4, 4), (8, 12, 4, 4)]


def test_without_rows_the_middle():
    assert edges(find([], "own", box_side=4)) == [(8, 13, 4, 4)]
    assert Box(8, 13, 4, 4).inside(SIZE)


def test_motion_is_the_largest_change_between_neighbours():
    clips = torch.zeros(1, 3, 2, 4, 3, dtype=torch.uint8)
    clips[0, 1, 0, 2] = torch.tensor([10, 0, 5])  # there and away: 15 both times
    clips[0, 2, 1, 3] = torch.tensor([0, 255, 255])
    clips[0, :, 1, 0] = torch.tensor([[200] * 3, [100] * 3, [250] * 3], dtype=torch.uint8)  # down 300, up 450
    clips[0, :, 0, 0, 0] = torch.tensor([40, 10, 10], dtype=torch.uint8)  # it only darkens
    clips[0, 1:, 1, 1, 1], clips[0, 2, 1, 1, 2] = 100, 90  # each colour at its own time
    assert motion_maps(clips)[0].tolist() == [[30, 0, 15, 0], [450, 100, 0, 510]]
    assert motion_maps(clips[:, :1]).tolist() == [[[0] * 4] * 2] and motion_maps(clips).dtype == torch.float32
