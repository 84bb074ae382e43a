"""Sampling: pinned generators, windows, resized sizes and thetas, by hand."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cache.geometry import Theta
from pipeline.config import Clips
from pipeline.data.sampling import (
    eval_start,
    eval_theta,
    frame_indices,
    resized_size,
    row_generator,
    train_theta,
    train_window,
)


def test_row_generator_is_pinned():
    # Changing these numbers makes every existing plan stale.
    assert row_generator(0, "07E49", 0, 0).integers(0, 1000, 4).tolist() == [973, 781, 988, 81]
    assert row_generator(7, "46GP8", 2, 3).integers(0, 1000, 4).tolist() == [306, 628, 875, 260]


def test_row_generator_sees_every_field():
    rows = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1), (0, "a1", 0, 0)]
    rows += [(10, "a", 1, 1), (1, "0a", 1, 1), (1, "a", 11, 1), (1, "a", 1, 11)]
    firsts = {int(row_generator(*row).integers(0, 2**62)) for row in rows}
    assert len(firsts) == len(rows)
    assert row_generator(np.int64(1), "a", np.int64(2), 3).random() == row_generator(1, "a", 2, 3).random()


def test_train_window_is_uniform_with_both_ends():
    rng = np.random.default_rng(0)
    counts = Counter(train_window(20, 16, rng) for _ in range(5000))
    assert set(counts) == {0, 1, 2, 3, 4}
    assert all(850 < count < 1150 for count in counts.values())
    assert {train_window(frames, 16, rng) for frames in (1, 15, 16) for _ in range(50)} == {0}


def test_eval_start_by_hand():
    # 10 clips, room 45: every 5th frame; the last clip ends with the video
    assert [eval_start(j, 10, 109, 64) for j in range(10)] == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]
    # 3 clips, room 5: 0, 2.5 (a half goes up), 5; room 6 with 5 clips: 0, 1.5, 3, 4.5, 6
    assert [eval_start(j, 3, 21, 16) for j in range(3)] == [0, 3, 5]
    assert [eval_start(j, 5, 22, 16) for j in range(5)] == [0, 2, 3, 5, 6]
    assert [eval_start(j, 4, 26, 16) for j in range(4)] == [0, 3, 7, 10]
    assert [eval_start(j, 4, 9, 16) for j in range(4)] == [0, 0, 0, 0]
    assert eval_start(0, 1, 23, 16) == 3
    for clip_index in (-1, 3):
        with pytest.raises(ValueError, match=str(clip_index)):
            eval_start(clip_index, 3, 21, 16)


def test_frame_indices():
    assert frame_indices(5, 4, 9) == (5, 6, 7, 8)
    assert frame_indices(0, 5, 3) == (0, 1, 2, 2, 2)
    for start, frames in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match=str(start)):
            frame_indices(start, 4, frames)


@pytest.mark.parametrize(
    ("source_size", "side", "truncated", "rounded"),
    [
        ((270, 480), 256, (256, 455), (256, 455)),  # 455.1
        ((480, 270), 256, (455, 256), (455, 256)),
        ((272, 480), 256, (256, 451), (256, 452)),  # 451.8
        ((4, 5), 2, (2, 2), (2, 3)),  # 2.5: a half goes up
        ((100, 100), 64, (64, 64), (64, 64)),
    ],
)
def test_resized_size(source_size, side, truncated, rounded):
    clips = Clips(resize="shorter_side", resized_side=side)
    assert resized_size(source_size, clips) == truncated  # the released code's int()
    assert resized_size(source_size, replace(clips, longer_side="rounded")) == rounded
    assert resized_size(source_size, replace(clips, resize="square")) == (side, side)
    with pytest.raises(ValueError, match=r"'longer_side'.*'square', 'shorter_side'"):
        resized_size(source_size, replace(clips, resize="longer_side"))


def test_eval_theta_is_the_centre():
    square, shorter = Clips(resized_side=256, input_side=224), Clips(resize="shorter_side", resized_side=256)
    assert eval_theta((270, 480), square) == Theta((270, 480), (256, 256), 16, 16, (224, 224), False)
    # (455 - 224) / 2 = 115.5
    assert eval_theta((270, 480), shorter) == Theta((270, 480), (256, 455), 16, 115, (224, 224), False)
    with pytest.raises(ValueError, match=r"224 does not fit into the resized frame \(200, 200\)"):
        eval_theta((270, 480), Clips(resized_side=200, input_side=224))


def test_train_theta_covers_all_crops_and_both_flips():
    rng = np.random.default_rng(1)
    clips = Clips(resize="shorter_side", resized_side=4, input_side=2)
    thetas = [train_theta((6, 9), clips, rng) for _ in range(6000)]
    assert {(theta.source_size, theta.resized_size, theta.input_size) for theta in thetas} == {((6, 9), (4, 6), (2, 2))}
    counts = Counter((theta.crop_top, theta.crop_left, theta.flip) for theta in thetas)
    assert set(counts) == {(top, left, flip) for top in range(3) for left in range(5) for flip in (False, True)}
    assert all(130 < count < 280 for count in counts.values())


def test_train_theta_draws_in_a_fixed_order():
    clips = Clips(resize="shorter_side", resized_side=40, input_side=20)
    theta = train_theta((6, 9), clips, row_generator(0, "07E49", 0, 1))
    rng = row_generator(0, "07E49", 0, 1)
    assert (theta.crop_top, theta.crop_left) == (rng.integers(0, 21), rng.integers(0, 41))
    assert theta.flip == (rng.integers(0, 2) == 1)
