"""Compare the frames of a video with those of another decoder, where one is installed."""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.data.video.frames import read_frames
from pipeline.errors import ClipOutOfRange

Reader = Callable[[Path, int, tuple[int, int]], np.ndarray]
FRAMES = 12
TOLERANCE = 4.0  # mean absolute difference in levels: decoders convert colours differently, by less than this
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue, ITU-R BT.601
BLOCK = 8  # pixels, for colours: decoders enlarge them differently, as they are stored at half the size


def available() -> tuple[dict[str, Reader], list[str]]:
    """Return readers by the name of their decoder, and the names of decoders that are not installed.

    A reader takes (path, count, (height, width)) and returns at most `count` first frames, uint8 (N, H, W, 3) RGB.
    """
    found, missing = {}, []
    for name, load in (("torchcodec", _torchcodec), ("opencv", _opencv), ("ffmpeg", _ffmpeg)):
        with suppress(ImportError, OSError, RuntimeError):  # torchcodec raises RuntimeError without its FFmpeg
            found[name] = load()
        if name not in found:
            missing.append(name)
    return found, missing


def compare(path: Path, timing: str, size: tuple[int, int], read: Reader) -> str:
    """Say how another decoder's first frames differ from ours; "" where they agree.

    Args:
        path: a video file that was probed.
        timing: VideoInfo.timing.
        size: (height, width) after rotation.
        read: the other decoder, see `available`.
    """
    frames = []
    with suppress(ClipOutOfRange):  # a video may be shorter
        for _, frame in read_frames(path, range(FRAMES), None, timing, decoding="plain"):
            frames.append(frame)
    ours = np.stack(frames).astype(np.float32)
    try:
        theirs = read(path, FRAMES, size).astype(np.float32)
    except Exception as error:  # other libraries raise what they like
        return f"cannot read it: {error}"
    if theirs.shape[1:] != ours.shape[1:]:
        (height, width), (own_height, own_width) = theirs.shape[1:3], ours.shape[1:3]
        return f"frames of {height} x {width}, ours {own_height} x {own_width} (height x width)"
    if len(theirs) < len(ours):
        return f"{len(theirs)} frames, ours {len(ours)}"
    difference = _difference(ours, theirs[: len(ours)])
    if difference.max() <= TOLERANCE:
        return ""
    worst = int(difference.argmax())
    near = int(_difference(theirs, ours[worst]).argmin())
    other = f"; it looks like its frame {near}" if near != worst else ""
    return f"frame {worst} differs by {difference[worst]:.1f} levels on average{other}"


def _difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return by how many levels frames, float32 (N, H, W, 3), differ: in luma, or in the mean colours of blocks."""
    change = ours - theirs
    rows, columns = (range(0, size, BLOCK) for size in change.shape[1:3])
    blocks = np.add.reduceat(np.add.reduceat(change, rows, 1), columns, 2) / BLOCK**2
    return np.maximum(np.abs(change @ LUMA).mean((1, 2)), np.abs(blocks).mean((1, 2, 3)))


def _torchcodec() -> Reader:
    from torchcodec.decoders import VideoDecoder

    def read(path: Path, count: int, size: tuple[int, int]) -> np.ndarray:
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
        return decoder.get_frames_in_range(0, min(count, len(decoder))).data.numpy()

    return read


def _opencv() -> Reader:
    import cv2

    def read(path: Path, count: int, size: tuple[int, int]) -> np.ndarray:
        capture, frames = cv2.VideoCapture(str(path)), []
        while len(frames) < count:
            there, frame = capture.read()
            if not there:
                break
            frames.append(frame[..., ::-1])
        capture.release()
        return np.stack(frames)

    return read


def _ffmpeg() -> Reader:
    binary = shutil.which("ffmpeg")
    if binary is None:
        raise ImportError("no ffmpeg on the PATH")

    def read(path: Path, count: int, size: tuple[int, int]) -> np.ndarray:
        command = [binary, "-v", "error", "-i", str(path.resolve()), "-map", "0:v:0", "-fps_mode", "passthrough"]
        command += ["-frames:v", str(count), "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        return np.frombuffer(done.stdout, np.uint8).reshape(-1, *size, 3)

    return read
