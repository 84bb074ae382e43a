"""One container file through PyAV: opened as what it is and nothing else, decoded by one thread, converted exactly."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from pipeline.config import Decoding
from pipeline.data.video.display import is_mirrored, is_untagged_hd
from pipeline.data.video.frame_folder import MAX_PIXELS
from pipeline.errors import VideoAudioOnly, VideoTooLarge, VideoTruncated, VideoUnreadable

# FFmpeg follows playlists and URLs unless told not to: plain containers, from the file system, nothing else.
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,asf,gif"}
# The same bytes on every machine, 8-bit and 10-bit and limited and full range alike; 1.5x the time of the defaults.
SCALER = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

_own = threading.local()

DecoderError = av.FFmpegError
Container, Stream, Frame = av.container.InputContainer, av.VideoStream, av.VideoFrame
TIME_BASE = av.time_base  # ticks a second of a container's own times
DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")  # what people's videos are in


@contextmanager
def opened(path: Path) -> Iterator[tuple[Container, Stream]]:
    """Open the container at its largest stream of moving pictures, for others are previews; decoded by one thread."""
    try:
        # An absolute path cannot be taken for a protocol such as concat:
        container = av.open(os.path.abspath(path), options=OPEN_OPTIONS)
    except OSError:
        raise  # some of FFmpeg's errors are these; the callers try again or name them
    except DecoderError as error:
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


def _pictures(container: Container) -> list[Stream]:
    """Return the streams of moving pictures: a picture of a record's cover is a video stream, too."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def stream_name(container: Container, stream: Stream) -> str:
    """Return which of several video streams it is, such as "v:1 of 2", counted from v:0; "" for the only one."""
    index = [one.index for one in _pictures(container)].index(stream.index)
    return f"v:{index} of {len(_pictures(container))}" if len(_pictures(container)) > 1 else ""


def decoded(
    path: Path,
    container: Container,
    stream: Stream,
    chosen: Iterator[av.Packet] | None = None,
) -> Iterator[Frame]:
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
    except DecoderError as found:
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


def to_rgb(path: Path, frame: Frame, decoding: Decoding = "player") -> np.ndarray:
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


def converted(frame: Frame, **options) -> Frame:
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
