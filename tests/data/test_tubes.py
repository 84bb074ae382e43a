"""Boxes that move with time, on constructed maps: reversed time, swapped axes and wrong weights of smoothing show."""

import numpy as np
import pytest
import torch
from torch import nn

from cache.geometry import Box, Clip, Theta, boxes_by_frame
from models.grad_cam import grad_cam
from models.motion import motion_maps
from models.saliency import input_saliency, segment_maxima
from pipeline.config import Saliency
from pipeline.config_file import check
from pipeline.data.box_policies import find_boxes, smoothed
from pipeline.data.clips import focused_volumes
from pipeline.data.miniature.truth import on_target
from pipeline.data.own_boxes import OwnBoxes, Row
from pipeline.errors import ConfigError
from tests.data.test_miniature import _one_row
from tests.helpers.tiny_data import tiny_config
from tests.models.test_grad_cam import Plain

SIZE = (20, 30)  # height, width of the input frame
TUBE = {"time_segments": 4, "box_side": 4}


def clip(frames=8, last=7):
    indices = tuple(min(number, last) for number in range(frames))
    return Clip("v", 0, 0, indices, Theta((40, 60), SIZE, 0, 0, SIZE, False))


def moving(*corners):
    """A map a segment with a square of four pixels at (top, left); nothing where there is none."""
    codes = np.zeros((len(corners), *SIZE), np.uint16)
    for segment, corner in enumerate(corners):
        if corner:
            codes[segment, corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] = 9
    return codes


def corners(found):
    return [(box.top, box.left) for box, _ in found]


def find(codes, policy="entropy", **settings):
    return find_boxes(clip(), policy, Saliency(**TUBE | settings), (0, 0), codes)


def test_a_box_moves_as_its_target_does_and_halts_at_the_ends():
    """Columns (0 + 2 x 0 + 6) / 4 = 1.5, 24 / 4, 48 / 4, 66 / 4 = 16.5; rows 46 / 4 = 11.5, 31 / 4, 16 / 4, 7 / 4."""
    way = moving((13, 0), (7, 6), (4, 12), (1, 18))
    assert corners(find(way)) == [(12, 2), (8, 6), (4, 12), (2, 17)]
    assert corners(find(way[::-1])) == [(2, 17), (4, 12), (8, 6), (12, 2)]


def test_one_leap_is_halved_and_shared_with_its_neighbours():
    around = [Box(3, 4, 2, 5), Box(3, 4, 2, 5), Box(11, 20, 2, 5), Box(3, 4, 2, 5), Box(3, 4, 2, 5)]
    found = [(box.top, box.left, box.height, box.width) for box in smoothed(around)]
    assert found == [(3, 4, 2, 5), (5, 8, 2, 5), (7, 12, 2, 5), (5, 8, 2, 5), (3, 4, 2, 5)]


def test_a_share_is_of_the_map_of_its_own_segment():
    codes = moving((12, 8), (12, 8), (12, 8), (12, 8))
    codes[1, 0, 29] = 16 * 9  # as much again, outside, and in this segment alone
    codes[1, 12:16, 8:12] += 10
    found = find(codes)
    assert corners(found) == [(12, 8)] * 4
    np.testing.assert_allclose([share for _, share in found], [1, 304 / 448, 1, 1])


def test_a_segment_without_a_map_looks_where_the_clip_does():
    found = find(moving((8, 16), None, (8, 16), (8, 16)))
    assert corners(found) == [(8, 16)] * 4 and [share for _, share in found] == [1, 1, 1, 1]
    nothing = find(moving(None, None, None, None))
    assert corners(nothing) == [(0, 0)] * 4 and np.isnan([share for _, share in nothing]).all()


def test_chance_and_the_middle_know_no_time():
    for policy in ("random", "center"):
        assert find(None, policy) == find(None, policy, time_segments=1) and len(find(None, policy)) == 1


def test_margin_and_jitter_are_of_the_tube_as_a_whole():
    way = moving((8, 10), (8, 10), (8, 14), (8, 14))
    plain, more = corners(find(way)), find(way, box_margin=0.5, box_jitter=3)
    steps = {(top - one[0], left - one[1]) for (top, left), one in zip(corners(more), plain, strict=True)}
    assert plain == [(8, 10), (8, 11), (8, 13), (8, 14)] and len(steps) == 1
    assert {(box.height, box.width) for box, _ in more} == {(8, 8)}
    settings = Saliency(**TUBE, box_jitter=3)
    assert len({corners(find_boxes(clip(), "entropy", settings, (seed, 0), way))[0] for seed in range(9)}) > 4


def test_maxima_are_of_the_steps_that_a_segment_touches():
    values = torch.tensor([[5.0, 1, 2, 7, 3, 4]])[..., None]
    assert segment_maxima(values, 2)[0, :, 0].tolist() == [5, 7]
    assert segment_maxima(values, 3)[0, :, 0].tolist() == [5, 7, 4]
    assert segment_maxima(values[:, :3], 2)[0, :, 0].tolist() == [5, 2]  # the middle step is in both
    assert segment_maxima(values[:, :2], 4)[0, :, 0].tolist() == [5, 5, 1, 1]


class ByTime(nn.Module):
    """Logits whose gradient at frame t is `weight` (T, H, W), in each colour."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, video):
        return (video * self.weight[None, ..., None]).sum((1, 2, 3, 4))[:, None, None]


def test_saliency_is_kept_by_segment():
    weight = torch.arange(24.0).reshape(4, 2, 3)
    network, video = ByTime(weight), torch.ones(2, 4, 2, 3, 3)
    objective = {"first": lambda logits: logits.sum((1, 2))}
    _, maps = input_saliency(network, video, objective, segments=2)
    expected = weight[[1, 3]] * 3**0.5  # later frames are brighter
    torch.testing.assert_close(maps["first"], expected.expand(2, 2, 2, 3))
    _, whole = input_saliency(network, video, objective)
    assert torch.equal(maps["first"].amax(1), whole["first"])
    _, cams = grad_cam(Plain(pool=2).eval(), torch.rand(1, 4, 4, 6, 3), {"sum": lambda x: x.sum((1, 2))}, segments=2)
    assert cams["sum"].shape == (1, 2, 4, 6)


def test_motion_of_a_segment_is_within_it_and_at_its_edges():
    clips = torch.zeros(1, 4, 1, 4, 3, dtype=torch.uint8)
    for frame in range(1, 4):
        clips[0, frame:, 0, frame] = 10 * frame  # changes from frame - 1 to frame
    assert motion_maps(clips, 2)[0, :, 0].tolist() == [[0, 30, 60, 0], [0, 0, 60, 90]]
    assert motion_maps(clips, 4)[0, :, 0].tolist() == [[0, 30, 0, 0], [0, 30, 60, 0], [0, 0, 60, 90], [0, 0, 0, 90]]


@pytest.mark.parametrize("pixels", ["source", "input"])
def test_a_moving_box_cuts_the_pixels_of_its_time(pixels):
    """Boxes as large as the source allows without a resize; every pixel holds frame, row and column."""
    frames = {
        index: np.stack([np.full((40, 60), index), *np.mgrid[0:40, 0:60]], -1).astype(np.uint8) for index in range(2)
    }
    inputs = np.stack([frame[::2, ::2] for frame in frames.values()])[[0, 1, 1, 1]]
    boxes = [Box(0, 0, 10, 15), Box(10, 12, 10, 15)]
    volume = focused_volumes(clip(4, 1), boxes, pixels, frames, inputs, segments=2)
    assert volume.shape == (4, *SIZE, 3)
    if pixels == "source":  # a repeated frame is cut anew
        expected = [frames[0][:20, :30], frames[1][:20, :30], frames[1][20:, 24:54], frames[1][20:, 24:54]]
        np.testing.assert_array_equal(volume, np.stack(expected))
    else:
        rows, columns = volume[:, 0, 0, 1], volume[:, 0, 0, 2]
        assert rows.tolist() == [0, 0, 20, 20] and columns.tolist() == [0, 0, 24, 24]


def test_frames_belong_to_segments_in_order_and_looks_stay_looks():
    a, b = Box(0, 0, 1, 1), Box(5, 5, 1, 1)
    assert boxes_by_frame([a, b], 4, 2) == [[a, a, b, b]]
    assert boxes_by_frame([a, b], 2) == [[a, a], [b, b]]


def test_rows_of_a_table_count_in_the_segment_that_they_share_time_with():
    """Eight frames in a second, of which a short video has five: segments hold frames 0 1, 2 3, 4 4, 4 4."""
    rows = [Row(2, 0, 0.25, Box(4, 8, 8, 8)), Row(3, 0.5, 0.6, Box(20, 40, 8, 8))]
    table = OwnBoxes(None, "", {"v": rows})
    short = clip(8, 4)
    found = table.evidence(short, 0, 0.625, 4)
    assert [[float(row.edges[1]) for row in one] for one in found] == [[4], [], [20], [20]]
    # the second one has both, which weigh 0.25 and twice 0.1: columns (0.25 x 6 + 0.2 x 22) / 0.45 = 13.1, minus 2
    boxes = find_boxes(short, "own", Saliency(**TUBE), (0, 0), found)
    assert corners(boxes) == corners(
        [(one, 0) for one in smoothed([Box(2, 4, 4, 4), Box(6, 11, 4, 4), *[Box(10, 20, 4, 4)] * 2])]
    )
    assert len(table.evidence(short, 0, 0.625)) == 2


def test_a_box_is_on_target_in_the_frames_of_its_segment():
    """Source 24 x 36, a third of it, crop at (0, 1): the card is at (2, 2) at first, then at (6, 9)."""
    cards = {"00000": {0: [(0, 8, Box(6, 9, 6, 6)), (1, 8, Box(18, 30, 6, 6))]}}
    there = [(2, 2, 2, 2), (6, 8, 2, 3)]
    assert on_target(cards, _one_row(), 0, there, segments=2)
    assert not on_target(cards, _one_row(), 0, there[::-1], segments=2)
    assert not on_target(cards, _one_row(), 0, there)  # two looks, each of which has half


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"time_segments": 3}, "saliency.time_segments: expected a divisor of clips.num_frames, 4, got 3"),
        ({"time_segments": 8}, "a divisor of clips.num_frames, 4, got 8"),
        ({"time_segments": 2, "box_rule": "top-k", "num_boxes": 2}, "time_segments: expected 1 with box_rule top-k"),
        ({"time_segments": 2, "box_rule": "scale", "box_sides": (8,)}, "expected 1 with box_rule scale"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        check(tiny_config(tmp_path, saliency=settings))
