"""Pixels under theta: the one resize, theta applied to a source frame, and boxes cut from source or input pixels."""

import numpy as np
import torch
from torch.nn import functional as F

from cache.geometry import Box, Theta


def resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize one frame, uint8 (H, W, 3), to (height, width): bilinear, antialiased when shrinking, half-pixel centres.

    PyTorch's uint8 kernel works in integers, so its bytes do not depend on threads; it stays within 1 of the
    result in floats and is several times as fast.

    Returns:
        uint8 (height, width, 3), contiguous; at the frame's own size the same pixels.
    Raises:
        ValueError: frame is not uint8 (H, W, 3).
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"resize takes uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
    if frame.shape[:2] == tuple(size):
        return np.ascontiguousarray(frame)
    pixels = torch.from_numpy(np.require(frame, requirements=("C", "W"))).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def apply_theta(frame_source: np.ndarray, theta: Theta) -> np.ndarray:
    """Make one frame of V_in = F(V, theta) from uint8 (*theta.source_size, 3): resize, crop, flip.

    Returns:
        uint8 (*theta.input_size, 3), contiguous.
    Raises:
        ValueError: the frame has another size.
    """
    _check_source_size(frame_source, theta)
    return crop_and_flip(resize(frame_source, theta.resized_size), theta)


def crop_and_flip(frames_resized: np.ndarray, theta: Theta) -> np.ndarray:
    """Apply the second half of theta to resized frames, uint8 (..., *theta.resized_size, 3).

    Returns:
        uint8 (..., *theta.input_size, 3), contiguous.
    Raises:
        ValueError: the frames have another size.
    """
    if frames_resized.shape[-3:-1] != tuple(theta.resized_size):
        raise ValueError(f"the resized frame is {frames_resized.shape[-3:-1]}, theta expects {theta.resized_size}")
    crop = theta.crop_in_resized
    frames = frames_resized[..., crop.top : crop.bottom, crop.left : crop.right, :]
    return np.ascontiguousarray(frames[..., ::-1, :] if theta.flip else frames)


def cut_source(frame_source: np.ndarray, theta: Theta, box_input: Box, out_size: tuple[int, int]) -> np.ndarray:
    """Cut one frame of the focused volume (eq. 2) from source pixels: undo theta, cut, scale, flip as the input is.

    Args:
        frame_source: uint8 (*theta.source_size, 3).
        box_input: the box in the input frame, after the flip.
        out_size: (height, width) of the focused volume.
    Returns:
        uint8 (*out_size, 3), contiguous.
    Raises:
        ValueError: the frame has another size, or the box leaves the input frame.
    """
    _check_source_size(frame_source, theta)
    focus = resize(_cut(frame_source, theta.to_source(box_input)), out_size)
    return np.ascontiguousarray(focus[:, ::-1] if theta.flip else focus)


def cut_input(frame_input: np.ndarray, box_input: Box, out_size: tuple[int, int]) -> np.ndarray:
    """Cut one frame of the upscaled volume from V_in itself, and enlarge it.

    Args:
        frame_input: uint8 (H_in, W_in, 3), flipped already where theta flips.
        box_input, out_size: as in `cut_source`.
    Returns:
        uint8 (*out_size, 3), contiguous.
    Raises:
        ValueError: the box leaves the input frame.
    """
    if not box_input.inside(frame_input.shape[:2]):
        raise ValueError(f"{box_input} leaves the input frame of size {frame_input.shape[:2]}")
    return resize(_cut(frame_input, box_input), out_size)


def _cut(frame: np.ndarray, box: Box) -> np.ndarray:
    return frame[box.top : box.bottom, box.left : box.right]


def _check_source_size(frame: np.ndarray, theta: Theta) -> None:
    if frame.shape[:2] != tuple(theta.source_size):
        raise ValueError(f"the source frame is {frame.shape[:2]}, theta expects {theta.source_size} (height, width)")
