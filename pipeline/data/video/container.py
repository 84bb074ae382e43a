"""One container file through PyAV: opened as what it is and nothing else, decoded by one thread, converted exactly."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import gcd
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from pipeline.config import Decoding
from pipeline.data.video.display import is_mirrored, is_untagged_hd, picture_notes
from pipeline.data.video.frame_folder import MAX_PIXELS
from pipeline.errors import VideoAudioOnly, VideoTooLarge, VideoTruncated, VideoUnreadable

# FFmpeg follows playlists and URLs unless told not to: plain containers, from the file system, nothing else.
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,asf,gif"}
# The same bytes on every machine, 8-bit and 10-bit and limited and full range alike; 1.5x the time of the defaults.
SCALER = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

_own = threading.local()

DecoderError = av.FFmpegError
DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")  # what people's videos are in


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open the container at its largest stream of moving pictures, for others are previews; decoded by one thread."""
    try:
        # An absolute path cannot be taken for a protocol such as concat:
        container = av.open(os.path.abspath(path), options=OPEN_OPTIONS)
    except OSError:
        raise  # some of FFmpeg's errors are these; the callers try again or name them
    except av.FFmpegError as error:
        raise VideoUnreadable(f"{path} cannot be opened: {error.strerror}") from error
    with container:
        streams = _pictures(container)
        if not streams:
            if container.streams.audio:
                raise VideoAudioOnly(f"{path}: {len(container.streams.audio)} audio stream(s), no video stream")
            raise VideoUnreadable(f"{path}: no video stream")
        decodable = [stream for stream in streams if stream.codec_context is not None]
        if not decodable:
            raise VideoUnreadable(f"{path}: no decoder for its video stream")
        stream = max(decodable, key=lambda one: one.width * one.height)  # of equal ones the first
        if stream.width * stream.height > MAX_PIXELS:
            raise VideoTooLarge(f"{path}: {stream.height} x {stream.width} pixels, the limit is {MAX_PIXELS}")
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield container, stream


def _pictures(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Return the streams of moving pictures: a picture of a record's cover is a video stream, too."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def stream_name(container: av.container.InputContainer, stream: av.VideoStream) -> str:
    """Return which of several video streams it is, such as "v:1 of 2", counted from v:0; "" for the only one."""
    index = [one.index for one in _pictures(container)].index(stream.index)
    return f"v:{index} of {len(_pictures(container))}" if len(_pictures(container)) > 1 else ""


def decoded(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    chosen: Iterator[av.Packet] | None = None,
) -> Iterator[av.VideoFrame]:
    """Yield every frame of the stream in order of presentation; the last, empty packet flushes the decoder.

    What comes before the first key frame, in the file as in a piece of a transport stream, or in time as frames that
    refer to the group of pictures before it, cannot be shown and is not missed.

    Args:
        chosen: packets from a key frame on, in place of all.
    """
    frames = packets = unshown = 0  # unshown: packets before the first key frame
    begin = None  # when the first key frame is shown
    interlaced = False  # then two packets may make one frame
    error = None
    try:
        for packet in chosen or container.demux(stream):
            if packet.size > 0 and not packet.is_discard:
                if not (packets or frames or packet.is_keyframe):
                    unshown += 1
                elif None in (begin, packet.pts) or packet.pts >= begin:
                    begin = begin if packets else packet.pts
                    packets += 1
            try:
                shown = packet.decode()
            except av.InvalidDataError:
                if packets or frames:
                    raise
                continue  # of packets before the first key frame, some decoders show nothing, others fail
            for frame in shown:
                frames += 1
                interlaced |= frame.interlaced_frame
                yield frame
    except OSError:
        raise
    except av.FFmpegError as found:
        error = found
    if unshown and not packets and not frames:
        piece = "its packets have no key frame, as those of a piece cut out of a group of pictures"
        raise VideoUnreadable(f"{path}: {piece}; cut it again from a key frame on") from error
    if error:
        reason = VideoTruncated if frames else VideoUnreadable
        promise = f" of {stream.frames}" if stream.frames else ""
        raise reason(f"{path}: decoding fails after {frames}{promise} frames: {error.strerror}") from error
    # Decoders drop damaged frames without a word.
    if 0 < frames < 0.9 * packets and not interlaced and not chosen:
        raise VideoTruncated(f"{path}: decoded {frames} frames from {packets} packets")


def average_rate(path: Path, stream: av.VideoStream) -> Fraction:
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


def promise(container: av.container.InputContainer, stream: av.VideoStream) -> Promise:
    """Return what the header says of the stream or, where it says nothing, of the container."""
    # of Matroska, where `stream.duration`, if there is one, is that of all streams
    tags = [text for name, text in stream.metadata.items() if name.startswith("DURATION")]
    if tags and (tag := re.fullmatch(r"([0-9]+):([0-9]+):([0-9.]+)", tags[0])):
        hours, minutes, seconds = map(Fraction, tag.groups())
        return Promise(opening(container) + 3600 * hours + 60 * minutes + seconds, True)
    if stream.duration:
        return Promise(((stream.start_time or 0) + stream.duration) * stream.time_base, True)
    return Promise(opening(container) + Fraction(container.duration or 0, av.time_base), False)


def _is_avi(container: av.container.InputContainer) -> bool:
    return container.format.name == "avi"


def opening(container: av.container.InputContainer) -> Fraction:
    """Return when the first of all streams begins, seconds."""
    return Fraction(container.start_time or 0, av.time_base)


def last_packet_end(path: Path) -> Fraction:
    """Return when the last packet of any stream ends, seconds: a cut file ends early in all of them."""
    with opened(path) as (container, _):
        packets = (one for one in container.demux() if one.pts is not None)
        return max(((one.pts + (one.duration or 0)) * one.time_base for one in packets), default=Fraction(0))


def frame_length(frame: av.VideoFrame, stream: av.VideoStream, rate: Fraction) -> Fraction:
    """Return the seconds a frame stays on screen, as far as the container says."""
    return frame.duration * stream.time_base if frame.duration else 1 / rate


def to_rgb(path: Path, frame: av.VideoFrame, decoding: Decoding = "player") -> np.ndarray:
    """Convert to uint8 (H, W, 3) RGB, turned as the rotation metadata (degrees counterclockwise) says.

    Args:
        decoding: "player" mirrors as the metadata say and takes untagged HD for BT.709, see `display`; "plain" does not
            mirror, and takes all that is untagged for BT.601.
    Raises:
        VideoUnreadable: turned by no multiple of 90 degrees, or in colours that cannot be converted.
    """
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise VideoUnreadable(f"{path}: rotation by {frame.rotation} degrees, not a multiple of 90")
    matrix = Colorspace.ITU709 if decoding == "player" and is_untagged_hd(frame) else None
    try:
        pixels = converted(frame, format="rgb24", interpolation=SCALER, src_colorspace=matrix).to_ndarray()
    except OSError as error:
        colours = f"{frame.format.name} pixels with colour matrix {frame.colorspace} (ITU-T H.273)"
        raise VideoUnreadable(f"{path}: {colours} cannot be converted to RGB; re-encode it in BT.709") from error
    pixels = np.rot90(pixels, turns)
    if decoding == "player" and is_mirrored(frame):
        pixels = np.flip(pixels, turns % 2)
    return np.ascontiguousarray(pixels)


def converted(frame: av.VideoFrame, **options) -> av.VideoFrame:
    """Convert a frame in this thread alone; the options are those of `VideoReformatter.reformat`.

    The converter is this thread's own. That of PyAV, from 19 on, is also of whoever else converts here: if they did so
    with several threads, a forked process waits in it for ever.
    """
    if not hasattr(_own, "converter"):
        _own.converter = VideoReformatter()
    return _own.converter.reformat(frame, threads=1, **options)


def decoder_versions() -> tuple[str, list[str]]:
    """Return the versions of PyAV and its FFmpeg in a line, and those of DECODERS that are missing."""
    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    missing = []
    for name in DECODERS:
        try:
            av.codec.Codec(name, "r")
        except ValueError:
            missing.append(name)
    return f"PyAV {av.__version__} (libavcodec {codecs})", missing


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
        except av.FFmpegError:
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
