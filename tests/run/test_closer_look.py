"""Looks at what a box shows: entropy by hand, where a look stops, where its box lies in the input frame."""

import math

import numpy as np
import pytest

from cache.geometry import Box
from pipeline.config import Saliency
from pipeline.config_file import check
from pipeline.errors import ConfigError
from pipeline.run.closer_look import Closer, look_closer, spatial_entropy
from tests.helpers.tiny_data import tiny_config

SIZE = (20, 30)


def square(top, left, side, height=9):
    codes = np.zeros(SIZE, np.uint16)
    codes[top : top + side, left : left + side] = height
    return codes


def test_entropy_of_a_map_by_hand():
    assert spatial_entropy(square(3, 4, 1)) == 0
    assert spatial_entropy(square(3, 4, 5)) == pytest.approx(math.log(25))
    unequal = square(3, 4, 1, 30)
    unequal[0, 0] = 10  # 1/4 ln 4 + 3/4 ln 4/3
    assert spatial_entropy(unequal) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    assert spatial_entropy(np.zeros(SIZE, np.uint16)) == float("inf")


def test_a_box_of_what_a_box_shows_covers_it_in_whole_pixels():
    """Rows 5 to 13 of 20 show 2.5 to 6.5 of 10, columns 10 to 19 of 30 show 4 to 7.6 of 12."""
    assert Box(4, 6, 10, 12).zoomed(Box(5, 10, 8, 9), SIZE) == Box(6, 10, 5, 4)
    assert Box(4, 6, 10, 12).zoomed(Box(0, 0, *SIZE), SIZE) == Box(4, 6, 10, 12)


class Looks:
    """Gives the maps of a list, look by look, and notes the boxes that were asked for."""

    def __init__(self, *maps):
        self.maps, self.asked = list(maps), []

    def __call__(self, boxes):
        self.asked.append(boxes)
        return {number: codes for number, codes in self.maps.pop(0).items() if number in boxes}


def test_looks_go_on_until_the_map_spreads():
    """Clip 0 stops at once, clip 1 after a second look, clip 2 when there are no more; clip 3 cannot be read."""
    first = {number: square(8, 10, 4) for number in range(4)}
    look = Looks(
        {0: square(0, 0, 5), 1: square(0, 20, 3), 2: square(10, 0, 4)},
        {0: square(0, 0, 1), 1: square(0, 0, 4), 2: square(0, 20, 3), 3: square(0, 0, 1)},
    )
    found = look_closer(first, Saliency(box_side=10, looks=3), look)
    start = Box(2, 4, 10, 10)  # the first of equal boxes around the square
    assert look.asked == [dict.fromkeys(range(4), start), {1: Box(2, 8, 5, 4), 2: Box(4, 4, 5, 4)}]
    # second looks: rows 0 to 9 and columns 13 to 22 of 20 x 30; rows 4 to 13 and columns 0 to 9, then as the other's
    assert found[0] == Closer(start, 1.0, 1)
    assert found[1] == Closer(Box(2, 8, 5, 4), 0.0, 2)
    assert found[2] == Closer(Box(4, 5, 3, 3), 0.0, 3)
    assert found.keys() == {0, 1, 2}


def test_a_share_is_of_the_first_map():
    codes = square(8, 10, 8)
    codes[12:16, 10:18] = 3  # the upper half holds 3/4
    found = look_closer({7: codes}, Saliency(box_side=10, looks=2), Looks({7: square(0, 0, 1)}))
    (closer,) = found.values()
    assert closer.looks == 2
    inside = codes[closer.box.top : closer.box.bottom, closer.box.left : closer.box.right]
    assert closer.share == pytest.approx(inside.sum() / codes.sum()) and 0 < closer.share < 1


def test_an_empty_map_is_not_looked_into():
    look = Looks()
    (found,) = look_closer({0: np.zeros(SIZE, np.uint16)}, Saliency(box_side=4, looks=3), look).values()
    assert found.box == Box(0, 0, 4, 4) and found.looks == 1 and math.isnan(found.share) and look.asked == []


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"box_rule": "top-k", "num_boxes": 2}, "box_rule top-k"),
        ({"time_segments": 2}, "time_segments 2"),
        ({"box_margin": 0.5}, r"box_margin 0\.5"),
        ({"box_jitter": 1}, "box_jitter 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=f"saliency.looks: expected 1 with {words}, got 2"):
        check(tiny_config(tmp_path, saliency=settings | {"looks": 2}))
