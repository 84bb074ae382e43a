"""One container file through PyAV: opened as what it is and nothing else, decoded by one thread, converted exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation

from pipeline.data.video.frame_folder import MAX_PIXELS
from pipeline.errors import VideoAudioOnly, VideoTooLarge, VideoTruncated, VideoUnreadable

# FFmpeg follows playlists and URLs unless told not to: plain containers, from the file system, nothing else.
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,asf"}
# The same bytes on every machine, 8-bit and 10-bit and limited and full range alike; 1.5x the time of the defaults.
SCALER = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")  # what people's videos are in


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open the container at its first stream of moving pictures, decoded by one thread."""
    try:
        # An absolute path cannot be taken for a protocol such as concat:
        container = av.open(str(path.resolve()), options=OPEN_OPTIONS)
    except OSError:
        raise  # some of FFmpeg's errors are these; the callers try again or name them
    except av.FFmpegError as error:
        raise VideoUnreadable(f"{path} cannot be opened: {error.strerror}") from error
    with container:
        # A picture of a record's cover is a video stream, too.
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not streams:
            if container.streams.audio:
                raise VideoAudioOnly(f"{path}: {len(container.streams.audio)} audio stream(s), no video stream")
            raise VideoUnreadable(f"{path}: no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoUnreadable(f"{path}: no decoder for its video stream")
        if stream.width * stream.height > MAX_PIXELS:
            raise VideoTooLarge(f"{path}: {stream.height} x {stream.width} pixels, the limit is {MAX_PIXELS}")
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield container, stream


def decoded(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Yield every frame of the stream in order of presentation; the last, empty packet flushes the decoder."""
    frames = packets = 0
    interlaced = False  # then two packets may make one frame
    try:
        for packet in container.demux(stream):
            packets += packet.size > 0 and not packet.is_discard
            for frame in packet.decode():
                frames += 1
                interlaced |= frame.interlaced_frame
                yield frame
    except OSError:
        raise
    except av.FFmpegError as error:
        reason = VideoTruncated if frames else VideoUnreadable
        promise = f" of {stream.frames}" if stream.frames else ""
        raise reason(f"{path}: decoding fails after {frames}{promise} frames: {error.strerror}") from error
    # Decoders drop damaged frames without a word.
    if 0 < frames < 0.9 * packets and not interlaced:
        raise VideoTruncated(f"{path}: decoded {frames} frames from {packets} packets")


def average_rate(path: Path, stream: av.VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoUnreadable(f"{path}: the container knows no frame rate")
    return rate


def promised_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction:
    """Return the length of the stream, or else of the container, as its header says; 0 where it does not."""
    return stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, 10**6)


def frame_length(frame: av.VideoFrame, stream: av.VideoStream, rate: Fraction) -> Fraction:
    """Return the seconds a frame stays on screen, as far as the container says."""
    return frame.duration * stream.time_base if frame.duration else 1 / rate


def to_rgb(path: Path, frame: av.VideoFrame) -> np.ndarray:
    """Convert to uint8 (H, W, 3) RGB, turned as the rotation metadata (degrees counterclockwise) says."""
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise VideoUnreadable(f"{path}: rotation by {frame.rotation} degrees, not a multiple of 90")
    pixels = frame.to_ndarray(format="rgb24", interpolation=SCALER, threads=1)
    return np.ascontiguousarray(np.rot90(pixels, turns))


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
class Packets:
    """What the packets of a stream and its first frame say; nothing else is decoded."""

    count: int
    seconds: Fraction  # from the first frame to the end of the last one
    promised: Fraction  # seconds that the container says
    rate: Fraction  # average frames a second
    size: tuple[int, int]  # (height, width) of the first frame, after rotation


def packets(path: Path) -> Packets | None:
    """Read the times of all packets; return None where only decoding can tell the times of frames.

    Raises:
        VideoError: as `opened` and `decoded`.
    """
    with opened(path) as (container, stream):
        first = next(decoded(path, container, stream), None)
    with opened(path) as (container, stream):
        rate = average_rate(path, stream)
        if container.format.name == "avi":  # knows when packets are decoded, not when their frames are shown
            return None
        try:
            # some packets hold several frames, or none that is shown: only times count
            found = [(one.pts, one.duration) for one in container.demux(stream) if one.size and not one.is_discard]
        except av.FFmpegError:
            return None
        times = [pts for pts, _ in found]
        if first is None or not times or None in times or len(set(times)) < len(times) or min(times) != first.pts:
            return None
        last, length = max(found)
        end = last * stream.time_base + (length * stream.time_base if length else 1 / rate)
        start = first.pts * stream.time_base
        size = (first.width, first.height) if first.rotation % 180 else (first.height, first.width)
        return Packets(len(times), end - start, promised_seconds(container, stream), rate, size)


@dataclass(frozen=True)
class Traits:
    """What is unusual about a video, as its container and its first frame say."""

    rotation: int  # degrees by which frames are turned before anything sees them
    pixel_aspect: Fraction  # width / height of a pixel
    interlaced: bool
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
    return Traits(first.rotation % 360, aspect, first.interlaced_frame, min(gaps, default=0.0), max(gaps, default=0.0))
