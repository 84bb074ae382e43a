"""Any moment of a long video, decoded from the key frame before it; frames are those of decoding it whole."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from functools import cache, lru_cache, partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.config import Decoding
from pipeline.data.video.clock import average_rate, frame_length
from pipeline.data.video.container import DecoderError, decoded, opened, to_rgb
from pipeline.data.video.find import video_kind
from pipeline.data.video.frames import ATTEMPTS, Rate, Timeline, Timing, retry_or_raise, timeline
from pipeline.errors import ClipOutOfRange, VideoUnreadable

JUMP = 1  # seconds: where the next key frame is nearer than that, going on takes less time than a jump


class KeyFrame(NamedTuple):
    """A packet from which a stream can be decoded."""

    start: Fraction  # when its frame is shown, seconds after the first frame of the stream
    pts: int  # the same in the stream's own clock
    order: int  # where to seek: when the packet is decoded or, where the container does not say, shown


class Cursor:
    """A place in a video, from which it is decoded forward; it jumps over what no one asks for.

    Raises (from both methods):
        VideoError: as `read_frames`.
    """

    def __init__(self, path: Path, timing: Timing, source_fps: Rate | None, decoding: Decoding = "player"):
        self.path, self.how = path, (timing, source_fps, decoding)
        self.keys = list(_keys_of(path)) if timing == "pts" and video_kind(path) == "file" else []
        self.shown = self.now = self.next = None

    def at(self, moment: Fraction) -> np.ndarray:
        """Return the frame on screen at a moment, in seconds after the first frame: uint8 (H, W, 3) RGB.

        It is decoded once where moments rise; an earlier one is decoded again, from the key frame before it.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._go_to(moment)
                return self.now[2]()
            except OSError as error:
                self.shown = None
                retry_or_raise(self.path, error, attempt)

    def close(self) -> None:
        """Close the file."""
        if self.shown:
            self.shown.close()
        self.shown = None

    def _go_to(self, moment: Fraction) -> None:
        """Make the frame on screen at the moment the present one."""
        back = not self.shown or moment < self.now[0]
        if back or moment > self.now[0] + JUMP:
            place = bisect_right(self.keys, moment, key=attrgetter("start"))
            key = self.keys[place - 1] if place else None
            if back or (key and key.start > self.now[0] + JUMP):
                self._jump(key)
        while self.next and self.next[0] <= moment:
            self.now, self.next = self.next, self._following()
        if not self.next and moment >= self.now[1]:
            raise ClipOutOfRange(f"{self.path}: {float(moment):g} s is asked for, the video ends at {self.now[1]}")

    def _jump(self, key: KeyFrame | None) -> None:
        """Go to a key frame or, where decoding cannot begin at it, to one before; None: to the beginning."""
        self.close()
        try:
            self.shown = _timeline_from(self.path, key, self.how[2]) if key else timeline(self.path, *self.how)
            self.now = self._following()
        except VideoUnreadable:
            if not key:
                raise
            self.keys.remove(key)
            earlier = [one for one in self.keys if one.start < key.start]
            return self._jump(earlier[-1] if earlier else None)
        self.next = self._following()

    def _following(self) -> tuple | None:
        """Return the next frame, whose pixels are converted once; None after the last."""
        found = next(self.shown, None)
        return found and (*found[:2], cache(found[2]))


def _timeline_from(path: Path, key: KeyFrame, decoding: Decoding) -> Timeline:
    """Yield the frames from a key frame on, as `timeline` does all.

    Raises:
        VideoUnreadable: decoding does not begin with it, as where later frames refer to earlier ones.
    """
    with opened(path) as (container, stream):
        rate, begun = average_rate(path, stream), False
        for frame in decoded(path, container, stream, _packets_from(path, container, stream, key)):
            if not begun and frame.pts is not None and frame.pts < key.pts:
                continue  # it refers to frames before the key frame
            if not begun and (frame.pts != key.pts or frame.is_corrupt):
                break
            begun = True
            start = key.start + (frame.pts - key.pts) * stream.time_base
            yield start, start + frame_length(frame, stream, rate), partial(to_rgb, path, frame, decoding)
        if not begun:
            raise VideoUnreadable(f"{path}: cannot be decoded from its key frame at {float(key.start):g} s on")


def _packets_from(path: Path, container, stream, key: KeyFrame) -> Iterator:
    """Yield the packets of a stream from a key frame on."""
    container.seek(key.order, stream=stream)
    begun = False
    for packet in (one for one in container.demux(stream) if one.pts is not None or begun):
        begun = begun or (packet.is_keyframe and packet.pts == key.pts)
        if not begun and _order(packet) > key.order:
            raise VideoUnreadable(f"{path}: the container does not find its key frame at {float(key.start):g} s")
        if begun:
            yield packet


def _order(packet) -> int:
    return packet.pts if packet.dts is None else packet.dts


def _keys_of(path: Path) -> tuple[KeyFrame, ...]:
    """Return the key frames of a file, see `_read_keys`, read again only where it changed."""
    stat = os.stat(path)
    return _read_keys(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=1 << 12)
def _read_keys(path: Path, *version: int) -> tuple[KeyFrame, ...]:
    """List, in order, the key frames after which nothing is shown that comes before them in the file, but the first.

    There are none where packets have no times. All packets are read, and the first frame is decoded.
    """
    with opened(path) as (container, stream):
        first = next(decoded(path, container, stream)).pts
    found, latest = [], first
    with opened(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard:
                    continue
                if first is None or packet.pts is None:
                    return ()
                if packet.is_keyframe and packet.pts > latest:
                    found.append(KeyFrame((packet.pts - first) * stream.time_base, packet.pts, _order(packet)))
                latest = max(latest, packet.pts)
        except DecoderError:
            return ()
    return tuple(found)
