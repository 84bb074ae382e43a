"""Segments of a recording share its decoding: what two of them show is decoded once, what none shows is jumped over."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import Decoding
from pipeline.data.video.frames import Timing
from pipeline.data.video.seek import Cursor

MOST_AHEAD = 2**29  # bytes of frames that wait for a later segment; what is beyond is decoded again
KEPT = 4  # recordings that stay open in a process, where the next segment goes on


class Recording(NamedTuple):
    """A long video as its cursor reads it; the arguments of `read_frames`."""

    path: Path
    timing: Timing
    source_fps: float | None
    sha256: str
    decoding: Decoding = "player"


Wanted = list[tuple[Fraction, int]]  # of a segment: when a frame is shown, seconds in the recording, and its number


class _Decoding:
    """A cursor, and the frames it has passed that later segments show, by their moments."""

    def __init__(self, recording: Recording):
        self.cursor = Cursor(*recording[:3], recording.decoding)
        self.ahead: dict[Fraction, np.ndarray] = {}

    def read(self, own: Wanted, later: list[Wanted]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield what `segment_frames` does."""
        numbers, after = dict(own), {moment for one in later for moment, _ in one}
        end = own[-1][0]
        held, self.ahead = self.ahead, {}
        for moment in sorted({*numbers, *(one for one in after if one <= end), *held}):
            frame = held.pop(moment) if moment in held else self.cursor.at(moment)
            if moment in numbers:
                yield numbers[moment], frame
            # what is held beyond this segment is of one that overlaps an earlier, longer one
            if (moment in after or moment > end) and frame.nbytes * len(self.ahead) < MOST_AHEAD:
                self.ahead[moment] = frame


_kept: dict[int, tuple[tuple, _Decoding]] = {}  # the one used last at the end; no lock, for processes are forked


def segment_frames(recording: Recording, own: Wanted, later: list[Wanted]) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames of a segment, from the key frame before it or from where the segment before has stopped.

    Args:
        later: frames of segments that are read after this one and begin before its last frame.
    Yields:
        (number in the segment, uint8 (H, W, 3) RGB).
    Raises:
        VideoError: as `read_frames`.
    """
    with _taken(recording) as decoding:
        yield from decoding.read(own, later)


@contextmanager
def _taken(recording: Recording) -> Iterator[_Decoding]:
    """Take the recording that this process has open, or open it; keep it open where nothing fails."""
    key = (os.getpid(), *recording)  # a forked process shares the file's position
    numbers = [number for number, (kept, _) in list(_kept.items()) if kept == key]
    taken = next((found for number in numbers if (found := _kept.pop(number, None))), None)
    decoding = taken[1] if taken else _Decoding(recording)
    yield decoding
    _kept[id(decoding)] = key, decoding
    for number in list(_kept)[:-KEPT]:
        if oldest := _kept.pop(number, None):
            oldest[1].cursor.close()
