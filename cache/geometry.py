"""Boxes, the spatial augmentation theta, and clips: plain numbers, no pixels.

A box is in one of three coordinate frames, which the variable's name says: *source* is the decoded video frame after
its rotation metadata, *resized* that frame after the resize, *input* the crop that the network sees, after the flip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


def _stretch(low: int, length: int, source: int, resized: int) -> tuple[int, int]:
    """Edges of [low, low + length) of an axis of `resized` pixels, rounded outwards to `source` pixels."""
    return low * source // resized, -(-(low + length) * source // resized)


@dataclass(frozen=True)
class Box:
    """The pixels [top, top + height) x [left, left + width) of a frame.

    TypeError for a value that is not an int; ValueError for a negative corner or a side below 1.
    """

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self):
        if not all(type(value) is int for value in (self.top, self.left, self.height, self.width)):
            raise TypeError(f"Box takes integers, got {self}")
        if self.top < 0 or self.left < 0 or self.height < 1 or self.width < 1:
            raise ValueError(f"Box needs top, left >= 0 and height, width >= 1, got {self}")

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width

    def zoomed(self, inner: "Box", size: tuple[int, int]) -> "Box":
        """The smallest box of whole pixels that covers `inner`, a box of this one enlarged to size (height, width)."""
        top, bottom = _stretch(inner.top, inner.height, self.height, size[0])
        left, right = _stretch(inner.left, inner.width, self.width, size[1])
        return Box(self.top + top, self.left + left, bottom - top, right - left)

    def inside(self, size: tuple[int, int]) -> bool:
        """Whether the box lies within a frame of size (height, width)."""
        return self.bottom <= size[0] and self.right <= size[1]


@dataclass(frozen=True)
class Theta:
    """The spatial augmentation of one clip: resize, then crop, then flip. Sizes are (height, width)."""

    source_size: tuple[int, int]
    resized_size: tuple[int, int]
    crop_top: int
    crop_left: int
    input_size: tuple[int, int]
    flip: bool

    def __post_init__(self):
        if not self.crop_in_resized.inside(self.resized_size):
            raise ValueError(f"the crop leaves the resized frame: {self}")

    @property
    def crop_in_resized(self) -> Box:
        """The part of the resized frame that becomes the input."""
        return Box(self.crop_top, self.crop_left, *self.input_size)

    def to_source(self, box_input: Box) -> Box:
        """Undo theta: the smallest box of whole source pixels that covers a box of the input frame.

        ValueError where box_input leaves the input frame.
        """
        if not box_input.inside(self.input_size):
            raise ValueError(f"{box_input} leaves the input frame of size {self.input_size}")
        top = self.crop_top + box_input.top
        left = self.crop_left + (self.input_size[1] - box_input.right if self.flip else box_input.left)
        top, bottom = _stretch(top, box_input.height, self.source_size[0], self.resized_size[0])
        left, right = _stretch(left, box_input.width, self.source_size[1], self.resized_size[1])
        return Box(top, left, bottom - top, right - left)

    def to_input(self, box_source: Box) -> tuple[Fraction, Fraction, Fraction, Fraction]:
        """Apply theta: the exact (top, left, bottom, right) of a source box in the input frame, also outside of it."""
        scale_y = Fraction(self.resized_size[0], self.source_size[0])
        scale_x = Fraction(self.resized_size[1], self.source_size[1])
        top, bottom = (edge * scale_y - self.crop_top for edge in (box_source.top, box_source.bottom))
        left, right = (edge * scale_x - self.crop_left for edge in (box_source.left, box_source.right))
        if self.flip:
            left, right = self.input_size[1] - right, self.input_size[1] - left
        return top, left, bottom, right


@dataclass(frozen=True)
class Clip:
    """Everything that is needed to get the same pixels again.

    Frame index k is the frame on screen k / fps seconds after the first one, at the plan's fps. A video that is shorter
    than the clip repeats its last index.
    """

    video_id: str
    clip_index: int
    aug_index: int
    frame_indices: tuple[int, ...]
    theta: Theta


def boxes_by_frame(boxes: Sequence[Box], num_frames: int, segments: int = 1) -> list[list[Box]]:
    """The box of every frame of a clip, for each look at it.

    Boxes are looks of their own, each the same in all frames; those of several segments are one look whose box moves:
    frame t of T lies in segment floor(t segments / T).
    """
    if segments > 1:
        return [[boxes[frame * segments // num_frames] for frame in range(num_frames)]]
    return [[box] * num_frames for box in boxes]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union, box by box: float64 (N,) in [0, 1].

    a and b are int (N, 4) in the same coordinate frame: top, left, height, width; areas above 0.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    both = np.maximum(high - low, 0).prod(1)
    return both / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - both)


def mean_iou(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Mean intersection over union of boxes, int (N, 4) as in `iou`, one array a seed. Rows of zeros do not count."""
    a, b = np.concatenate(ours), np.concatenate(theirs)
    found = (a[:, 2] > 0) & (b[:, 2] > 0)
    return float(iou(a[found], b[found]).mean())
