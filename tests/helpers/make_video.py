"""Small videos for tests: frames that show their own number, written with PyAV as the test wants them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

BITS = 6
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def numbered_frame(number: int, size: tuple[int, int] = (48, 80)) -> np.ndarray:
    """uint8 (H, W, 3): the number as BITS grey bands from left to right, above a red left and a blue right half."""
    height, width = size
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        band = slice(bit * width // BITS, (bit + 1) * width // BITS)
        frame[: height // 2, band] = 220 if number >> bit & 1 else 30
    frame[height // 2 :, : width // 2] = (200, 30, 30)
    frame[height // 2 :, width // 2 :] = (30, 30, 200)
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number in a frame, after lossy coding."""
    height, width = frame.shape[:2]
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(frame[height // 4, column].mean() > 125) << bit for bit, column in enumerate(centres))


def write_video(
    path: Path,
    frames: list[np.ndarray],
    fps: int | Fraction = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: list[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames.

    Args:
        path: its extension chooses the container.
        frames: uint8 (H, W, 3) each.
        fps: nominal rate; also the clock of the timestamps unless time_base is given.
        codec: "libx264", "libx265" (64 x 64 or more, or it breaks the heap), "libvpx-vp9", ...
        pix_fmt: "yuv420p", "yuvj420p" (full range), "yuv420p10le", ...
        pts: presentation times in units of time_base, for a variable rate.
        time_base: seconds; 1 / fps when not given.
        rotation: degrees clockwise by which a player turns the frames: 0, 90, 180, 270 (mp4 and mov only).
        options: of the codec, such as {"bf": "3"}.
    """
    height, width = frames[0].shape[:2]
    movflags = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}  # the index first: a cut file opens
    with av.open(str(path), "w", container_options=movflags) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"crf": "12", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(-rotation)  # FFmpeg counts counterclockwise
        stream.codec_context.time_base = time_base or 1 / Fraction(fps)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            full = pix_fmt.startswith("yuvj")
            frame = frame.reformat(format=pix_fmt, dst_color_range=2 if full else 1, interpolation=EXACT)
            frame.pts = number if pts is None else pts[number]
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_streams(path: Path, pictures: list[list[np.ndarray]], sound: float = 0.0, start: float = 0.0) -> Path:
    """Encode several video streams at 10 frames a second, and sound from 0 to `sound` seconds.

    Args:
        pictures: RGB frames of each stream, a key frame every 20.
        start: seconds until the first picture.
    """
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10, options={"g": "20", "sc_threshold": "0"}) for _ in pictures]
        for stream, frames in zip(streams, pictures, strict=True):
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
            stream.codec_context.time_base = Fraction(1, 1000)
        voice = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for stream, frames in zip(streams, pictures, strict=True):
            for number, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = round(1000 * (start + number / 10)), Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        for number in range(int(sound * 8000 / 1024)):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, number * 1024, Fraction(1, 8000)
            container.mux(voice.encode(frame))
        if voice:
            container.mux(voice.encode(None))
    return path


def replace_video(path: Path, frames: list[np.ndarray], fps: int) -> None:
    """Put another video of exactly the same number of bytes in its place, filled up with a `free` box."""
    size = path.stat().st_size
    write_video(path, frames, fps, options={"crf": "30"})
    rest = size - path.stat().st_size
    assert rest >= 8
    with open(path, "ab") as file:
        file.write(rest.to_bytes(4, "big") + b"free" + bytes(rest - 8))
