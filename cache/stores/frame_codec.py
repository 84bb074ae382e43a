"""Frames as JPEG or PNG files in memory."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from cache.errors import DamagedError
from cache.layout import Codec


def encode_volume(frames: np.ndarray, codec: Codec, quality: int = 90) -> list[bytes]:
    """Encode every frame of a volume, uint8 (T, H, W, 3) RGB, as "jpeg" (4:2:0) or "png" (lossless).

    The quality, 1 to 100, is of JPEG only. ValueError for another shape, dtype or codec.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"a volume is uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
    frames = np.ascontiguousarray(frames)
    if codec == "jpeg":
        return [simplejpeg.encode_jpeg(f, quality, colorspace="RGB", colorsubsampling="420") for f in frames]
    if codec != "png":
        raise ValueError(f"codec {codec!r}, allowed: jpeg, png")
    buffers = [io.BytesIO() for _ in frames]
    for frame, buffer in zip(frames, buffers, strict=True):
        Image.fromarray(frame).save(buffer, "png", compress_level=1)
    return [buffer.getvalue() for buffer in buffers]


def decode_frame(content: bytes, codec: Codec, size: tuple[int, int], place: str) -> np.ndarray:
    """Decode a frame to uint8 (H, W, 3) RGB.

    DamagedError, before anything is decoded, where its header has another size than (height, width); or where it cannot
    be decoded. The place is for messages.
    """
    try:
        if codec == "jpeg":
            height, width, *_ = simplejpeg.decode_jpeg_header(content)
        else:
            image = Image.open(io.BytesIO(content), formats=["PNG"])
            width, height = image.size
        if (height, width) != size:
            raise DamagedError(f"{place}: {height} x {width} pixels, expected {size[0]} x {size[1]}")
        return simplejpeg.decode_jpeg(content, "RGB") if codec == "jpeg" else np.asarray(image.convert("RGB"))
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedError(f"{place}: {error}") from error
