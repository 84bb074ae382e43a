"""What the header and the packets of a container say: when its frames are shown, and what is unusual about it."""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import gcd
from pathlib import Path

from pipeline.data.video.container import (
    TIME_BASE,
    Container,
    DecoderError,
    Frame,
    Stream,
    decoded,
    opened,
    stream_name,
    to_rgb,
)
from pipeline.data.video.display import is_mirrored, picture_notes
from pipeline.errors import VideoUnreadable


def average_rate(path: Path, stream: Stream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoUnreadable(f"{path}: the container knows no frame rate")
    # an AVI may count in half frames; then its index has every second number
    return rate / (gcd(*(one.timestamp for one in stream.index_entries)) or 1) if _is_avi(stream.container) else rate


@dataclass(frozen=True)
class Promise:
    """What the header says of the end of the pictures, seconds on their clock; 0 where it says nothing."""

    end: Fraction
    of_pictures: bool  # False: of the whole container, in which sound may outlast the pictures


def promise(container: Container, stream: Stream) -> Promise:
    """Return what the header says of the stream or, where it says nothing, of the container."""
    # of Matroska, where `stream.duration`, if there is one, is that of all streams
    tags = [text for name, text in stream.metadata.items() if name.startswith("DURATION")]
    if tags and (tag := re.fullmatch(r"([0-9]+):([0-9]+):([0-9.]+)", tags[0])):
        hours, minutes, seconds = map(Fraction, tag.groups())
        return Promise(opening(container) + 3600 * hours + 60 * minutes + seconds, True)
    if stream.duration:
        return Promise(((stream.start_time or 0) + stream.duration) * stream.time_base, True)
    return Promise(opening(container) + Fraction(container.duration or 0, TIME_BASE), False)


def _is_avi(container: Container) -> bool:
    return container.format.name == "avi"


def opening(container: Container) -> Fraction:
    """Return when the first of all streams begins, seconds."""
    return Fraction(container.start_time or 0, TIME_BASE)


def last_packet_end(path: Path) -> Fraction:
    """Return when the last packet of any stream ends, seconds: a cut file ends early in all of them."""
    with opened(path) as (container, _):
        packets = (one for one in container.demux() if one.pts is not None)
        return max(((one.pts + (one.duration or 0)) * one.time_base for one in packets), default=Fraction(0))


def frame_length(frame: Frame, stream: Stream, rate: Fraction) -> Fraction:
    """Return the seconds a frame stays on screen, as far as the container says."""
    return frame.duration * stream.time_base if frame.duration else 1 / rate


@dataclass(frozen=True)
class Clock:
    """When the frames of a stream are shown."""

    pts: list[int]  # rising, in units of time_base
    time_base: Fraction  # seconds
    last: Fraction  # seconds that the last frame stays on screen
    rate: Fraction  # average frames a second
    opening: Fraction  # when the first of all streams of the file begins, seconds


@dataclass(frozen=True)
class Packets:
    """What the packets of a stream and its first frame say; nothing else is decoded."""

    clock: Clock
    promise: Promise
    size: tuple[int, int]  # (height, width) of the first frame, after rotation
    stream: str  # see `stream_name`
    pictures: str  # see `picture_notes`


def packets(path: Path) -> Packets | None:
    """Read the times of all packets; return None where only decoding can tell the times of frames.

    Raises:
        VideoError: as `opened` and `decoded`.
    """
    with opened(path) as (container, stream):
        if first := next(decoded(path, container, stream), None):
            to_rgb(path, first)  # or raise
    with opened(path) as (container, stream):
        rate = average_rate(path, stream)
        if _is_avi(container):  # knows when packets are decoded, not when their frames are shown
            return None
        try:
            # some packets hold several frames, or none that is shown: only times count
            found = [(one.pts, one.duration) for one in container.demux(stream) if one.size and not one.is_discard]
        except DecoderError:
            return None
        times = [pts for pts, _ in found]
        if first is None or not times or None in times or len(set(times)) < len(times) or min(times) != first.pts:
            return None
        length = max(found)[1]
        last = length * stream.time_base if length else 1 / rate
        size = (first.width, first.height) if first.rotation % 180 else (first.height, first.width)
        clock = Clock(sorted(times), stream.time_base, last, rate, opening(container))
        return Packets(clock, promise(container, stream), size, stream_name(container, stream), picture_notes(first))


@dataclass(frozen=True)
class Traits:
    """What is unusual about a video, as its container and its first frame say."""

    rotation: int  # degrees by which frames are turned before anything sees them
    pixel_aspect: Fraction  # width / height of a pixel
    mirrored: bool  # ... and then mirrored
    shortest: float  # seconds from one packet to the next in order of presentation; 0 where times are unknown
    longest: float


def traits(path: Path) -> Traits:
    """Look at a video that was probed before: decode one frame, read all packets."""
    with opened(path) as (container, stream):
        first = next(decoded(path, container, stream))
        aspect = stream.sample_aspect_ratio or Fraction(1)
    with opened(path) as (container, stream):
        times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        gaps = [float((late - early) * stream.time_base) for early, late in pairwise(times)]
    return Traits(first.rotation % 360, aspect, is_mirrored(first), min(gaps, default=0.0), max(gaps, default=0.0))
