"""Row 18: every frame that ten clips of a video show, decoded once, as the stages do it and by torchcodec."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.result import Result, of_times
from benchmarks.scene import FPS, make
from benchmarks.timing import both_sides
from pipeline.data.video.frames import read_frames


def measure(seconds: float = 30.0, size: tuple[int, int] = (270, 480), repeats: int = 5) -> Result:
    """On one thread each, on the CPU; size is (height, width)."""
    try:
        from torchcodec.decoders import VideoDecoder  # of the extra `bench`
    except RuntimeError as error:
        raise ModuleNotFoundError("torchcodec finds no FFmpeg libraries that it can load") from error
    with TemporaryDirectory() as folder:
        scene = make(Path(folder) / "scene", test=1, seconds=seconds, size=size, network="small_i3d")
        (part,) = scene.stores.run.parts_of("test")
        rate, path = part.settings["fps"], scene.videos / "V00.mp4"
        slots = sorted({slot for row in range(part.num_rows) for slot in part.clip(row).frame_indices})

        def ours() -> np.ndarray:
            return np.stack([frame for _, frame in read_frames(path, slots, rate)])

        def theirs() -> np.ndarray:
            decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
            return decoder.get_frames_at([int(slot * FPS / rate) for slot in slots]).data.numpy()

        apart = np.abs(np.subtract(ours(), theirs(), dtype=np.int16))
        times = both_sides(ours, theirs, repeats)
    words = f"frames differ, by up to {apart.max()} of 255, {apart.mean():.2g} on average"
    return of_times(
        times,
        name=f"{len(slots)} frames of ten clips of a {size[1]} x {size[0]} video of {seconds:g} s, against torchcodec",
        goal="≥ 1 where frames are equal",
        met=times.ratio >= 1 or bool(apart.any()),
        agreement=words if apart.any() else "equal frames",
    )
