"""Pixels under theta: resize against a brute-force reference, crops and boxes by hand, round trips on marked pixels."""

import numpy as np
import pytest
import torch

from cache.geometry import Box, Theta
from pipeline.config import Clips
from pipeline.data.pixels import apply_theta, cut_input, cut_source, resize
from pipeline.data.sampling import resized_size


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def weights(source, resized):
    """(resized, source): a triangle around each half-pixel centre, as wide as an output pixel, at least 1."""
    scale = source / resized
    centres = (np.arange(resized) + 0.5) * scale - 0.5
    rows = np.maximum(0, 1 - np.abs(np.arange(source)[None] - centres[:, None]) / max(scale, 1))
    return rows / rows.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("source", "resized"), [((40, 70), (16, 31)), ((16, 31), (40, 70)), ((30, 20), (12, 50)), ((7, 5), (3, 9))]
)
def test_resize_against_brute_force(source, resized):
    frame = noise(source)
    expected = np.einsum("ih,hwc,jw->ijc", weights(source[0], resized[0]), frame, weights(source[1], resized[1]))
    result = resize(frame, resized)
    assert result.dtype == np.uint8 and result.shape == (*resized, 3) and result.flags.c_contiguous
    # 0.5 for rounding at the end, as much for the kernel's 8 bits between its two passes
    assert np.abs(result - expected).max() < 1.001
    assert abs((result - expected).mean()) < 0.1  # rounded, not truncated


def test_resize_by_hand():
    # twice as wide: half-pixel centres at -.25, .25, .75, 1.25 of the source
    frame = np.array([[[0, 80, 200], [100, 120, 200]]], np.uint8)
    assert resize(frame, (1, 4)).tolist() == [[[0, 80, 200], [25, 90, 200], [75, 110, 200], [100, 120, 200]]]


@pytest.mark.filterwarnings("error")  # PyTorch only warns of arrays it must not write to
def test_resize_takes_any_memory_and_leaves_it_alone():
    frame = noise((20, 33))
    kept = frame.copy()
    frame.setflags(write=False)
    expected = resize(frame, (11, 17))
    assert np.array_equal(frame, kept)
    assert np.array_equal(resize(frame[:, ::-1], (11, 17)), resize(np.ascontiguousarray(frame[:, ::-1]), (11, 17)))
    assert np.array_equal(
        resize(noise((30, 40))[5:25, 3:36], (9, 8)), resize(noise((30, 40))[5:25, 3:36].copy(), (9, 8))
    )
    assert np.array_equal(resize(frame, (20, 33)), frame)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    assert np.array_equal(resize(frame, (11, 17)), expected)
    torch.set_num_threads(threads)
    for bad in (frame.astype(np.float32), frame[..., 0], frame[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            resize(bad, (11, 17))


@pytest.mark.parametrize("flip", [False, True])
def test_apply_theta_without_scaling_is_slicing(flip):
    frame = noise((12, 20))
    theta = Theta((12, 20), (12, 20), 2, 5, (7, 9), flip)
    expected = frame[2:9, 5:14]
    result = apply_theta(frame, theta)
    assert np.array_equal(result, expected[:, ::-1] if flip else expected) and result.flags.c_contiguous
    with pytest.raises(ValueError, match=r"\(20, 12\).*\(12, 20\)"):
        apply_theta(noise((20, 12)), theta)


def test_order_is_resize_crop_flip():
    frame = noise((24, 50))
    theta = Theta((24, 50), (12, 25), 1, 3, (6, 8), True)
    assert np.array_equal(apply_theta(frame, theta), resize(frame, (12, 25))[1:7, 3:11][:, ::-1])


@pytest.mark.parametrize("flip", [False, True])
def test_cut_source_by_hand(flip):
    # source 48x90 is 3x and 5x the resized 16x18; the crop starts at row 2, column 4
    frame = noise((48, 90))
    theta = Theta((48, 90), (16, 18), 2, 4, (10, 12), flip)
    box = Box(1, 2, 4, 3)
    # unflipped columns 2..5 or, mirrored in 12, 7..10; + 4 and times 5
    left = (4 + 7) * 5 if flip else (4 + 2) * 5
    expected = frame[9:21, left : left + 15]
    expected = expected[:, ::-1] if flip else expected
    result = cut_source(frame, theta, box, (12, 15))
    assert np.array_equal(result, expected) and result.flags.c_contiguous
    # scaled before the flip, with the one resize
    scaled = resize(frame[9:21, left : left + 15], (20, 22))
    assert np.array_equal(cut_source(frame, theta, box, (20, 22)), scaled[:, ::-1] if flip else scaled)
    with pytest.raises(ValueError, match="leaves the input"):
        cut_source(frame, theta, Box(1, 10, 4, 3), (12, 15))
    with pytest.raises(ValueError, match="source frame"):
        cut_source(frame[:, :-1], theta, box, (12, 15))


def test_cut_input_by_hand():
    frame = noise((10, 12))
    assert np.array_equal(cut_input(frame, Box(1, 2, 4, 3), (4, 3)), frame[1:5, 2:5])
    assert np.array_equal(cut_input(frame, Box(1, 2, 4, 3), (9, 8)), resize(frame[1:5, 2:5].copy(), (9, 8)))
    assert cut_input(frame, Box(0, 0, 10, 12), (10, 12)).flags.c_contiguous
    with pytest.raises(ValueError, match="leaves the input"):
        cut_input(frame, Box(0, 10, 4, 3), (4, 3))


@pytest.mark.parametrize("mode", ["square", "shorter_side"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("source_size", [(120, 210), (190, 130)])
def test_the_focused_volume_shows_what_the_box_shows(source_size, flip, mode):
    """A smooth picture whose red is the row and green the column: both ways to its pixels agree."""
    rows, columns = np.mgrid[0 : source_size[0], 0 : source_size[1]]
    frame = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    resized = resized_size(source_size, Clips(resize=mode, resized_side=64))
    theta = Theta(source_size, resized, 3, 6, (56, 52), flip)
    frame_input = apply_theta(frame, theta)
    for box in (Box(0, 0, 56, 52), Box(5, 17, 20, 30), Box(30, 2, 24, 12)):
        focus = cut_source(frame, theta, box, (40, 48)).astype(int)
        upscaled = cut_input(frame_input, box, (40, 48)).astype(int)
        # whole source pixels around the box, and the filter at edges: within two input pixels
        step = max(source_size[0] / resized[0], source_size[1] / resized[1])
        assert np.abs(focus - upscaled).max() <= 2 * step
        assert (np.diff(focus[..., 1], axis=1) >= 0).all() != flip
