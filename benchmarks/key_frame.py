"""Frames of a clip decoded from the nearest key frame: the quickest way to one clip of a long video."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.data.video.container import opened, to_rgb


def clip_frames(path: Path, slots: list[int], fps: float) -> Iterator[tuple[int, np.ndarray]]:
    """(slot, uint8 (H, W, 3) RGB) of the frame on screen at every slot of the rate; slots are sorted and unique.

    Needs sound timestamps and key frames that can be sought, as the videos of these rows have.
    """
    waiting, step, held = list(reversed(slots)), 1 / Fraction(str(fps)), None
    with opened(path) as (container, stream):
        first = stream.start_time or 0
        container.seek(first + int(waiting[-1] * step / stream.time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            start = (frame.pts - first) * stream.time_base
            while held is not None and waiting and waiting[-1] * step < start:
                yield waiting.pop(), to_rgb(path, held)
            if not waiting:
                return
            held = frame
        while waiting:
            yield waiting.pop(), to_rgb(path, held)
