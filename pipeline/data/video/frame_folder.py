"""Folders of JPEG frames: `<id>/<id>-000001.jpg`, ... in place of a video file."""

import hashlib
import re
from pathlib import Path

import numpy as np
import simplejpeg

from pipeline.errors import UnsafePath, VideoAmbiguous, VideoEmpty, VideoTooLarge, VideoTruncated, VideoUnreadable

MAX_PIXELS = 2**26  # of a frame, in files and folders alike


def frame_files(folder: Path) -> list[Path]:
    """List the frames in order of their numbers, which start anywhere and leave no gap. Ignore other files.

    Raises:
        VideoEmpty: no frame at all.
        VideoTruncated: a number is missing between the first and the last.
        VideoAmbiguous: two files have the same number.
        UnsafePath: a frame is a symbolic link.
    """
    files = {}
    for file in sorted(folder.iterdir()):
        match = re.fullmatch(re.escape(folder.name) + r"-([0-9]{1,9})\.(jpg|jpeg|JPG|JPEG)", file.name)
        if not match:
            continue
        if file.is_symlink():
            raise UnsafePath(f"{file} is a link; frames must be files of the folder itself")
        if files.setdefault(int(match[1]), file) is not file:
            raise VideoAmbiguous(f"{file} and {files[int(match[1])].name} have the same number")
    if not files:
        raise VideoEmpty(f"{folder} holds no frame {folder.name}-000001.jpg, ...")
    first, last = min(files), max(files)
    gap = next((number for number in range(first, last) if number not in files), None)
    if gap is not None:
        raise VideoTruncated(f"{folder}: frame {gap} of {first} .. {last} is missing; {len(files)} are there")
    return [files[number] for number in sorted(files)]


def probe_folder(folder: Path) -> tuple[int, tuple[int, int], int, str]:
    """Decode every frame once; see `frame_files`.

    Returns:
        number of frames, (height, width), bytes, and the SHA-256 of all names, sizes and contents in order.
    Raises:
        VideoUnreadable: a frame cannot be decoded, or the size changes.
    """
    digest, total, sizes = hashlib.sha256(), 0, set()
    files = frame_files(folder)
    for file in files:
        content = file.read_bytes()
        sizes.add(_decode(file, content).shape[:2])
        if len(sizes) > 1:
            raise VideoUnreadable(f"{file}: the frame size changes: {sorted(sizes)} (height, width)")
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
        total += len(content)
    return len(files), sizes.pop(), total, digest.hexdigest()


def read_frame(file: Path) -> np.ndarray:
    """Decode one frame, uint8 (H, W, 3) RGB; raise VideoUnreadable where that fails."""
    return _decode(file, file.read_bytes())


def _decode(file: Path, content: bytes) -> np.ndarray:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
        if height * width > MAX_PIXELS:
            raise VideoTooLarge(f"{file}: {height} x {width} pixels, the limit is {MAX_PIXELS}")
        return simplejpeg.decode_jpeg(content, colorspace="RGB")
    except ValueError as error:
        raise VideoUnreadable(f"{file}: {error}") from error
