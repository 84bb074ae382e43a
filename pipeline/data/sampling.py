"""Which frames and which spatial augmentation make a clip; every random choice comes from the row's own generator."""

import hashlib
import json
from typing import Literal

import numpy as np

from cache.geometry import Theta
from pipeline.config import Clips

ResizeMode = Literal["square", "shorter_side"]


def row_generator(plan_seed: int, video_id: str, clip_index: int, aug_index: int) -> np.random.Generator:
    """The random numbers of one row of the plan.

    They are seeded by a hash of the row's identity alone, so workers, order, resume and machine change nothing.
    """
    identity = json.dumps([int(plan_seed), str(video_id), int(clip_index), int(aug_index)])
    seed = int.from_bytes(hashlib.sha256(identity.encode()).digest(), "big")
    return np.random.Generator(np.random.PCG64(seed))


def train_window(num_frames: int, clip_frames: int, rng: np.random.Generator) -> int:
    """First frame of a training clip, uniform over 0 .. max(0, N - T); one draw.

    Args:
        num_frames: N, frames of the video at the plan's rate.
        clip_frames: T, frames of the clip.
        rng: the row's generator.
    """
    return int(rng.integers(0, max(0, num_frames - clip_frames) + 1))


def eval_start(clip_index: int, eval_clips: int, num_frames: int, clip_frames: int) -> int:
    """First frame of evaluation clip j: round(j * max(0, N - T) / (clips - 1)), halves rounded up, in integers.

    A single clip lies in the middle (rounded down).

    Raises:
        ValueError: clip_index is not in 0 .. eval_clips - 1.
    """
    if not 0 <= clip_index < eval_clips:
        raise ValueError(f"clip_index {clip_index} is not in 0 .. {eval_clips - 1}")
    room = max(0, num_frames - clip_frames)
    if eval_clips == 1:
        return room // 2
    steps = eval_clips - 1
    return (2 * clip_index * room + steps) // (2 * steps)


def frame_indices(start: int, clip_frames: int, num_frames: int) -> tuple[int, ...]:
    """The clip's frames at the plan's rate: start, start + 1, ...; past the end the last frame is repeated.

    Raises:
        ValueError: the video has no frame, or start is not one of its frames.
    """
    if not 0 <= start < num_frames:
        raise ValueError(f"start {start} is not a frame of a video of {num_frames} frames")
    return tuple(min(start + offset, num_frames - 1) for offset in range(clip_frames))


def resized_size(source_size: tuple[int, int], mode: ResizeMode, side: int) -> tuple[int, int]:
    """Size (height, width) of the resized frame.

    Args:
        source_size: (height, width) of the source frame.
        mode: "square" makes both sides `side`, as the paper does; "shorter_side" keeps the aspect ratio, the longer
            side rounded to whole pixels, halves up.
        side: pixels.
    Raises:
        ValueError: unknown mode.
    """
    if mode == "square":
        return side, side
    if mode != "shorter_side":
        raise ValueError(f"resize mode {mode!r} is not one of 'square', 'shorter_side'")
    shorter = min(source_size)
    height, width = ((2 * length * side + shorter) // (2 * shorter) for length in source_size)
    return height, width


def train_theta(
    source_size: tuple[int, int], mode: ResizeMode, side: int, input_side: int, rng: np.random.Generator
) -> Theta:
    """Random augmentation of a training clip: a uniform crop and a flip with p = 0.5.

    Three draws in a fixed order: crop_top, crop_left, flip. The input is input_side x input_side.

    Raises:
        ValueError: the resized frame is smaller than the input.
    """
    height, width = _room(source_size, mode, side, input_side)
    crop_top = int(rng.integers(0, height + 1))
    crop_left = int(rng.integers(0, width + 1))
    flip = bool(rng.integers(0, 2))
    resized = resized_size(source_size, mode, side)
    return Theta(tuple(source_size), resized, crop_top, crop_left, (input_side, input_side), flip)


def train_clip(
    clips: Clips, video_id: str, aug_index: int, num_frames: int, source_size: tuple[int, int]
) -> tuple[int, Theta]:
    """First frame and theta of one stored augmentation of a training video, as the plan has it.

    Args:
        clips: the config's.
        num_frames: N, frames of the video at the plan's rate.
        source_size: (height, width) of the video.
    """
    rng = row_generator(clips.plan_seed, video_id, 0, aug_index)
    start = train_window(num_frames, clips.num_frames, rng)
    return start, train_theta(source_size, clips.resize, clips.resized_side, clips.input_side, rng)


def eval_theta(source_size: tuple[int, int], mode: ResizeMode, side: int, input_side: int) -> Theta:
    """Augmentation of an evaluation clip: the centre crop (rounded to the top and left), no flip.

    Raises:
        ValueError: the resized frame is smaller than the input.
    """
    height, width = _room(source_size, mode, side, input_side)
    resized = resized_size(source_size, mode, side)
    return Theta(tuple(source_size), resized, height // 2, width // 2, (input_side, input_side), False)


def _room(source_size: tuple[int, int], mode: ResizeMode, side: int, input_side: int) -> tuple[int, int]:
    """Rows and columns by which the crop can move inside the resized frame."""
    height, width = (length - input_side for length in resized_size(source_size, mode, side))
    if min(height, width) < 0:
        raise ValueError(f"input side {input_side} is larger than the resized side {side}")
    return height, width
