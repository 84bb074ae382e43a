"""Videos as frames on a clock: read video files and folders of JPEG frames.

The time rule: slot k of a target rate is the frame on screen k / fps seconds after the first one, in exact rational
arithmetic. Without a target rate, slot k is the k-th decoded frame.
"""

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.config import Decoding
from pipeline.data.video.clock import (
    average_rate,
    frame_length,
)
from pipeline.data.video.container import decoded, opened, to_rgb
from pipeline.data.video.find import Kind, video_kind
from pipeline.data.video.frame_folder import frame_files, read_frame
from pipeline.errors import ClipOutOfRange, VideoUnreadable

log = logging.getLogger(__name__)

Rate = int | float | str | Fraction
Timing = Literal["pts", "rate"]
Timeline = Iterator[tuple[Fraction, Fraction, Callable[[], np.ndarray]]]  # each frame's start, end, pixels on demand
TRANSIENT = {errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
ATTEMPTS = 3


def read_frames(
    path: Path,
    slots: Sequence[int],
    fps: Rate | None,
    timing: Timing = "pts",
    source_fps: Rate | None = None,
    decoding: Decoding = "player",
    kind: Kind | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode forward once, hold one source frame at a time, and stop after the last wanted slot.

    Args:
        slots: sorted, unique slots of the target rate.
        fps: target rate in frames a second; None for the video's own frames.
        decoding: of files, see `to_rgb`.
        kind: of the video, where it is known.
    Yields:
        (slot, uint8 (H, W, 3) RGB after rotation metadata). Slots that show the same source frame share one array.
    Raises:
        ClipOutOfRange: a slot lies past the end.
        VideoError, ValueError: as `probe.probe`; slots that are not sorted and unique.
    """
    path, slots = Path(path), [int(slot) for slot in slots]
    if min(slots, default=0) < 0 or slots != sorted(set(slots)):
        raise ValueError(f"{path}: slots must be sorted, unique and not negative")
    step = Fraction(1) if fps is None else 1 / exact_rate(fps, "fps")
    done = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            shown = timeline(path, timing, source_fps, decoding, kind)
            if fps is None:
                shown = ((Fraction(k), Fraction(k + 1), pixels) for k, (_, _, pixels) in enumerate(shown))
            for slot, frame in _on_screen(path, shown, slots[done:], step):
                yield slot, frame
                done += 1
            return
        except OSError as error:
            retry_or_raise(path, error, attempt)


def timeline(
    path: Path, timing: Timing, source_fps: Rate | None, decoding: Decoding = "player", kind: Kind | None = None
) -> Timeline:
    """Decode forward; yield when each frame is shown, seconds after the first one, and its pixels on demand."""
    is_file = (kind or video_kind(path)) == "file"
    return _file_timeline(path, timing, decoding) if is_file else _folder_timeline(path, source_fps)


def _on_screen(path: Path, shown: Timeline, slots: list[int], step: Fraction) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frame on screen at each slot: the last one that starts at or before slot * step."""
    waiting = list(reversed(slots))
    end, held = Fraction(0), None
    for start, stop, pixels in shown:
        while held and waiting and waiting[-1] * step < start:
            yield waiting.pop(), held()
        if not waiting:
            return
        end, held = stop, cache(pixels)
    while waiting and waiting[-1] * step < end:
        yield waiting.pop(), held()
    if waiting:
        raise ClipOutOfRange(f"{path}: slot {waiting[-1]} starts at {waiting[-1] * step}, the video ends at {end}")


def _folder_timeline(path: Path, source_fps: Rate | None) -> Timeline:
    rate = folder_rate(path, source_fps)
    for number, file in enumerate(frame_files(path)):
        yield number / rate, (number + 1) / rate, partial(read_frame, file)


def folder_rate(path: Path, source_fps: Rate | None) -> Fraction:
    """Return the rate of a folder of frames; ValueError where none is given."""
    if source_fps is None:
        raise ValueError(f"{path}: a folder of frames needs source_fps (24 for the official Charades frames)")
    return exact_rate(source_fps, "source_fps")


def _file_timeline(path: Path, timing: Timing, decoding: Decoding) -> Timeline:
    with opened(path) as (container, stream):
        rate = average_rate(path, stream)
        first = None
        for number, frame in enumerate(decoded(path, container, stream)):
            if timing == "rate":
                start, end = number / rate, (number + 1) / rate
            elif frame.pts is None:
                raise VideoUnreadable(f"{path}: frame {number} has no timestamp; probe again")
            else:
                first = frame.pts if first is None else first
                start = (frame.pts - first) * stream.time_base
                end = start + frame_length(frame, stream, rate)
            yield start, end, partial(to_rgb, path, frame, decoding)


def exact_rate(rate: Rate, name: str) -> Fraction:
    """Read 29.97 as 2997/100, not as the nearest binary number; ValueError, with the name, where it is not above 0."""
    value = Fraction(str(rate))
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {rate}")
    return value


def retry_or_raise(path: Path, error: OSError, attempt: int) -> None:
    """Return only after a transient error, and not after the last attempt."""
    if error.errno not in TRANSIENT or attempt == ATTEMPTS:
        raise VideoUnreadable(f"{path}: {error.strerror} (attempt {attempt} of {ATTEMPTS})") from error
    log.warning("%s: %s; attempt %d of %d", path, error.strerror, attempt, ATTEMPTS)
