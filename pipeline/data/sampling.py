"""Which frames and which spatial augmentation make a clip; every random choice comes from the row's own generator."""

import hashlib
import json

import numpy as np

from cache.geometry import Theta
from pipeline.config import Clips


def row_generator(plan_seed: int, video_id: str, clip_index: int, aug_index: int) -> np.random.Generator:
    """Return the random numbers of one row of the plan, the same in every worker, order and resumed run."""
    identity = json.dumps([int(plan_seed), str(video_id), int(clip_index), int(aug_index)])
    seed = int.from_bytes(hashlib.sha256(identity.encode()).digest(), "big")
    return np.random.Generator(np.random.PCG64(seed))


def train_window(num_frames: int, clip_frames: int, rng: np.random.Generator) -> int:
    """Draw the first frame of a training clip, uniform over 0 .. max(0, num_frames - clip_frames), in one draw."""
    return int(rng.integers(0, max(0, num_frames - clip_frames) + 1))


def eval_start(clip_index: int, eval_clips: int, num_frames: int, clip_frames: int) -> int:
    """Return the first frame of evaluation clip j: round(j * max(0, N - T) / (clips - 1)), halves rounded up.

    A single clip lies in the middle (rounded down). N and T are the frames of the video and of the clip.
    """
    if not 0 <= clip_index < eval_clips:
        raise ValueError(f"clip_index {clip_index} is not in 0 .. {eval_clips - 1}")
    room = max(0, num_frames - clip_frames)
    if eval_clips == 1:
        return room // 2
    steps = eval_clips - 1
    return (2 * clip_index * room + steps) // (2 * steps)


def frame_indices(start: int, clip_frames: int, num_frames: int) -> tuple[int, ...]:
    """Return the clip's frames at the plan's rate: start, start + 1, ...; past the end the last frame is repeated."""
    if not 0 <= start < num_frames:
        raise ValueError(f"start {start} is not a frame of a video of {num_frames} frames")
    return tuple(min(start + offset, num_frames - 1) for offset in range(clip_frames))


def resized_size(source_size: tuple[int, int], clips: Clips) -> tuple[int, int]:
    """Return the size (height, width) of the resized frame, in pixels.

    `clips.resize` "square" makes both sides `clips.resized_side`, as the paper does; "shorter_side" keeps the aspect
    ratio, the longer side cut down to whole pixels, as in the released code, or rounded, halves up.
    """
    mode, side = clips.resize, clips.resized_side
    if mode == "square":
        return side, side
    if mode != "shorter_side":
        raise ValueError(f"resize mode {mode!r} is not one of 'square', 'shorter_side'")
    shorter = min(source_size)
    half = shorter if clips.longer_side == "rounded" else 0
    height, width = ((2 * length * side + half) // (2 * shorter) for length in source_size)
    return height, width


def train_theta(source_size: tuple[int, int], clips: Clips, rng: np.random.Generator) -> Theta:
    """Draw the augmentation of a training clip: crop_top, crop_left and flip, uniform and in this order."""
    resized, rows, columns = _resized_and_room(source_size, clips)
    top, left, flip = (int(rng.integers(0, largest + 1)) for largest in (rows, columns, 1))
    return Theta(tuple(source_size), resized, top, left, (clips.input_side, clips.input_side), bool(flip))


def train_clip(
    clips: Clips, video_id: str, aug_index: int, num_frames: int, source_size: tuple[int, int]
) -> tuple[int, Theta]:
    """Draw the first frame and the theta of one stored augmentation of a training video of num_frames frames."""
    rng = row_generator(clips.plan_seed, video_id, 0, aug_index)
    start = train_window(num_frames, clips.num_frames, rng)
    return start, train_theta(source_size, clips, rng)


def eval_theta(source_size: tuple[int, int], clips: Clips) -> Theta:
    """Return the augmentation of an evaluation clip: the centre crop (rounded to the top and left), no flip."""
    resized, rows, columns = _resized_and_room(source_size, clips)
    return Theta(tuple(source_size), resized, rows // 2, columns // 2, (clips.input_side, clips.input_side), False)


def _resized_and_room(source_size: tuple[int, int], clips: Clips) -> tuple[tuple[int, int], int, int]:
    """Return the resized size, and the rows and columns by which the crop can move in it.

    Raises:
        ValueError: the resized frame is smaller than the input.
    """
    resized = resized_size(source_size, clips)
    rows, columns = (length - clips.input_side for length in resized)
    if min(rows, columns) < 0:
        raise ValueError(f"input side {clips.input_side} does not fit into the resized frame {resized}")
    return resized, rows, columns
