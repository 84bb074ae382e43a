"""What there is in a video file or a folder of JPEG frames: decoded once, whole, or as far as its packets tell."""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from cache.fingerprint import file_sha256, unchanged_sha256
from pipeline.data.video.clock import (
    Clock,
    Promise,
    average_rate,
    frame_length,
    last_packet_end,
    opening,
    packets,
    promise,
)
from pipeline.data.video.container import decoded, opened, stream_name, to_rgb
from pipeline.data.video.display import picture_notes
from pipeline.data.video.find import Kind, kind_of, look_at, video_kind
from pipeline.data.video.frame_folder import folder_content, frame_files, probe_folder, read_frame
from pipeline.data.video.frames import ATTEMPTS, Rate, Timing, exact_rate, folder_rate, retry_or_raise
from pipeline.errors import VideoEmpty, VideoTruncated, VideoUnreadable


@dataclass(frozen=True)
class VideoInfo:
    """What decoding the whole video showed. Times are exact; height and width hold after rotation metadata.

    `timing` says where a frame's time comes from: "pts", its timestamp; "rate", its number divided by `source_fps`,
    where timestamps are missing or run backwards. `sha256` is that of the file; of a folder, that of all names, sizes
    and contents in order.
    """

    kind: Literal["file", "frames"]
    num_source_frames: int
    duration_seconds: Fraction
    source_fps: Fraction
    height: int
    width: int
    timing: Timing
    bytes: int
    sha256: str
    stream: str = ""  # which of several video streams, see `stream_name`
    first_frame: float = 0.0  # seconds from the beginning of the file, perhaps with sound, to the first picture
    longest_gap: float = 0.0  # seconds from one frame to the next, by "pts"
    pictures: str = ""  # what players do to the frames and we do not, see `picture_notes`
    # seconds of each frame after the first, only where they are not their numbers / source_fps within half a frame
    times: tuple[float, ...] = ()

    def num_frames(self, fps: Rate | None) -> int:
        """Count the frames at the target rate: slots k with k / fps < duration."""
        return self.num_source_frames if fps is None else math.ceil(self.duration_seconds * exact_rate(fps, "fps"))


def probe(path: Path, source_fps: Rate | None = None) -> VideoInfo:
    """Decode a video file or a folder of frames once, whole, and say what is there; do not trust its headers.

    Raises:
        VideoError: one of its subclasses, with the file's name.
        ValueError: source_fps, the rate of a folder of frames, is missing for one.
    """
    path = Path(path)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _probe_file(path) if video_kind(path) == "file" else _probe_folder(path, source_fps)
        except OSError as error:
            retry_or_raise(path, error, attempt)


def scan(path: Path, source_fps: Rate | None = None) -> VideoInfo:
    """Say what `probe` says of a sound video without decoding more of it than the first frame.

    Where its packets do not tell the times of its frames, it is decoded whole. Damage may show only in `read_frames`.
    Raises as `probe`.
    """
    path = Path(path)
    try:
        if video_kind(path) == "frames":
            rate, files = folder_rate(path, source_fps), frame_files(path)
            size, found = read_frame(files[0]).shape[:2], folder_content(path)
            return VideoInfo("frames", len(files), len(files) / rate, rate, *size, "rate", *found)
        if path.stat().st_size == 0:
            raise VideoEmpty(f"{path} has 0 bytes")
        if found := packets(path):
            about = {"sha256": unchanged_sha256(path), "stream": found.stream, "pictures": found.pictures}
            return _by_clock(path, found.clock, found.promise, found.size, about)
    except OSError as error:
        raise VideoUnreadable(f"{path}: {error.strerror}") from error
    return probe(path, source_fps)


def video_content(path: Path, root: Path | None = None) -> tuple[Kind, int, str]:
    """Return kind, bytes and SHA-256 of a video as `probe` does, without decoding; read again only what changed since.

    Raises:
        VideoError: neither a file nor a folder of frames; UnsafePath: not in root, see `look_at`.
        OSError: it cannot be read.
    """
    found = look_at(path, root)
    kind = kind_of(found)
    return kind, *((found.st_size, unchanged_sha256(path, found)) if kind == "file" else folder_content(path))


def _probe_folder(path: Path, source_fps: Rate | None) -> VideoInfo:
    rate = folder_rate(path, source_fps)
    count, (height, width), size, sha256 = probe_folder(path)
    return VideoInfo("frames", count, count / rate, rate, height, width, "rate", size, sha256)


def _probe_file(path: Path) -> VideoInfo:
    if path.stat().st_size == 0:
        raise VideoEmpty(f"{path} has 0 bytes")
    pts, sizes, about, last = [], set(), {"sha256": file_sha256(path)}, None
    with opened(path) as (container, stream):
        for last in decoded(path, container, stream):
            if not pts:
                to_rgb(path, last)  # or raise
                about |= {"stream": stream_name(container, stream), "pictures": picture_notes(last)}
            pts.append(last.pts)
            sizes.add((last.width, last.height) if last.rotation % 180 else (last.height, last.width))
            if len(sizes) > 1:
                raise VideoUnreadable(f"{path}: the frame size changes at frame {len(pts) - 1}: {sorted(sizes)}")
        if last is None:
            raise VideoEmpty(f"{path}: no frame could be decoded")
        rate = average_rate(path, stream)
        forward = None not in pts and pts == sorted(pts)
        promised, start = promise(container, stream), opening(container)
        last = frame_length(last, stream, rate)
        if forward and (len(pts) == 1 or pts[0] < pts[-1]):
            clock = Clock(pts, stream.time_base, last, rate, start)
            return _by_clock(path, clock, promised, sizes.pop(), about)
        start, duration = (stream.start_time or 0) * stream.time_base, len(pts) / rate
    _check_promise(path, len(pts), start, duration, promised, rate)
    return VideoInfo("file", len(pts), duration, rate, *sizes.pop(), "rate", path.stat().st_size, **about)


def _by_clock(path: Path, clock: Clock, promised: Promise, size: tuple[int, int], about: dict[str, str]) -> VideoInfo:
    """Return what the times of all frames say, and the fields of `about`."""
    count, start = len(clock.pts), clock.pts[0] * clock.time_base
    duration = clock.pts[-1] * clock.time_base - start + clock.last
    _check_promise(path, count, start, duration, promised, clock.rate)
    times = (np.array(clock.pts) - clock.pts[0]) * float(clock.time_base)
    uneven = np.abs(times - np.arange(count) / float(clock.rate)).max() > 0.5 / clock.rate
    return VideoInfo(
        *("file", count, duration, clock.rate, *size, "pts", path.stat().st_size),
        **about,
        first_frame=round(max(0.0, float(start - clock.opening)), 6),
        longest_gap=round(float(np.diff(times).max(initial=0)), 6),
        times=tuple(times.round(6).tolist()) if uneven else (),
    )


def _check_promise(
    path: Path, count: int, start: Fraction, duration: Fraction, promised: Promise, rate: Fraction
) -> None:
    """Raise VideoTruncated where a file ends before its header says, within half a second or a tenth."""

    def missing(end: Fraction) -> bool:
        return promised.end - end > max(Fraction(1, 2), (promised.end - start) / 10)

    if missing(start + duration) and (promised.of_pictures or missing(last_packet_end(path))):
        promise = promised.end - start
        seconds = f"{float(duration):.3f} of {float(promise):.3f} seconds"
        raise VideoTruncated(f"{path}: decoded {count} of about {round(promise * rate)} frames, {seconds}")
