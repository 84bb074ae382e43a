"""Frames of a clip decoded from the nearest key frame: the quickest way to one clip of a long video."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.data.video.seek import Cursor


def clip_frames(path: Path, slots: list[int], fps: float) -> Iterator[tuple[int, np.ndarray]]:
    """(slot, uint8 (H, W, 3) RGB) of the frame on screen at every slot of the rate; slots are sorted and unique."""
    cursor = Cursor(path, "pts", None)
    for slot in slots:
        yield slot, cursor.at(slot / Fraction(str(fps)))
    cursor.close()
