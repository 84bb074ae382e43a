"""Folders of JPEG frames: `<id>/<id>-000001.jpg`, ... in place of a video file; turned upright as their EXIF says."""

import hashlib
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from pipeline.errors import UnsafePath, VideoAmbiguous, VideoEmpty, VideoTooLarge, VideoTruncated, VideoUnreadable

MAX_PIXELS = 2**26  # of a frame, in files and folders alike
ORIENTATION = 0x0112  # the EXIF tag, from 1, upright, to 8
UPRIGHT = {  # what makes a picture (H, W, 3) of an orientation upright
    2: np.fliplr,
    3: lambda frame: frame[::-1, ::-1],
    4: np.flipud,
    5: lambda frame: frame.swapaxes(0, 1),
    6: lambda frame: np.rot90(frame, -1),
    7: lambda frame: frame[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def frame_files(folder: Path) -> list[Path]:
    """List the frames in order of their numbers, which start anywhere and leave no gap. Ignore other files.

    Raises:
        VideoEmpty: no frame at all.
        VideoTruncated: a number is missing between the first and the last.
        VideoAmbiguous: two files have the same number.
        UnsafePath: a frame is a symbolic link.
        VideoUnreadable: a frame is no regular file.
    """
    files = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        match = re.fullmatch(re.escape(folder.name) + r"-([0-9]{1,9})\.(jpg|jpeg|JPG|JPEG)", entry.name)
        if not match:
            continue
        file = folder / entry.name
        if entry.is_symlink():
            raise UnsafePath(f"{file} is a link; frames must be files of the folder itself")
        if not entry.is_file(follow_symlinks=False):
            raise VideoUnreadable(f"{file} is not a regular file")
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
        number of frames, (height, width), bytes, and the SHA-256 of all names, sizes and contents in order, and of
        which frames are turned: runs that were made before frames were turned know these folders as others.
    Raises:
        VideoUnreadable: a frame cannot be decoded, or the size changes.
    """
    digest, total, sizes = hashlib.sha256(), 0, set()
    files = frame_files(folder)
    for file, content in _read(files, digest):
        sizes.add(_decode(file, content).shape[:2])
        if len(sizes) > 1:
            raise VideoUnreadable(f"{file}: the frame size changes: {sorted(sizes)} (height, width)")
        total += len(content)
    return len(files), sizes.pop(), total, digest.hexdigest()


def folder_content(folder: Path) -> tuple[int, str]:
    """Return bytes and SHA-256 as `probe_folder` does; read again only where a frame's size, time or inode changed."""
    stats = [(file.name, os.stat(file)) for file in frame_files(folder)]
    version = repr([(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats])
    sha256 = _sha256_of_version(folder, hashlib.sha256(version.encode()).digest())  # a short key of a long list
    return sum(stat.st_size for _, stat in stats), sha256


@lru_cache(maxsize=1 << 16)
def _sha256_of_version(folder: Path, version: bytes) -> str:
    digest = hashlib.sha256()
    for _ in _read(frame_files(folder), digest):
        pass
    return digest.hexdigest()


def _read(files: list[Path], digest) -> Iterator[tuple[Path, bytes]]:
    """Yield each frame and its content, after adding name, size and content to a digest, and whether it is turned."""
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
        if _orientation(content) in UPRIGHT:
            digest.update(b"turned\0")
        yield file, content


def read_frame(file: Path) -> np.ndarray:
    """Decode one frame, uint8 (H, W, 3) RGB, upright; raise VideoUnreadable where that fails."""
    return _decode(file, file.read_bytes())


def _decode(file: Path, content: bytes) -> np.ndarray:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
        if height * width > MAX_PIXELS:
            raise VideoTooLarge(f"{file}: {height} x {width} pixels, the limit is {MAX_PIXELS}")
        frame = simplejpeg.decode_jpeg(content, colorspace="RGB")
    except ValueError as error:
        raise VideoUnreadable(f"{file}: {error}") from error
    turn = UPRIGHT.get(_orientation(content))
    return frame if turn is None else np.ascontiguousarray(turn(frame))


def _orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG; 1, upright, where it says none or its EXIF data are no such."""
    start = content.find(b"Exif\0\0")
    if start < 0:
        return 1
    exif = Image.Exif()
    # what Pillow raises and says of other data
    with suppress(SyntaxError, struct.error, ValueError), warnings.catch_warnings(action="ignore"):
        exif.load(content[start : start + 2**16])
        return exif.get(ORIENTATION, 1)
    return 1
