"""Write H.264 files: the miniature's videos, and pictures that move."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from pipeline.data.video.container import converted
from pipeline.errors import VideoEmpty

# without these flags the conversion takes faster ways that depend on where in memory a frame lies
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, crf: int = 18) -> None:
    """Encode frames, uint8 (H, W, 3) RGB with even H and W, at a constant rate. One thread: the same bytes always."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = None
        for pixels in frames:
            if stream is None:
                # x264's macroblock tree gives other bytes now and then, for the same frames
                options = {"crf": str(crf), "preset": "superfast", "threads": "1", "x264-params": "mbtree=0"}
                stream = container.add_stream("libx264", rate=fps, options=options)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(converted(frame, format="yuv420p", interpolation=EXACT)))
        if stream is None:
            raise VideoEmpty(f"{path}: no frame to write")
        container.mux(stream.encode())
