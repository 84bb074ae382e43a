"""Windows of a video in one pass over its frames, of which those are held that some window still needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.geometry import Clip
from pipeline.config import Clips
from pipeline.data.clips import PlannedVideo, decode_frames
from pipeline.data.pixels import crop_and_flip, resize
from pipeline.data.sampling import eval_start, eval_theta, frame_indices
from pipeline.data.video.probe import VideoInfo
from pipeline.workers import phases


@dataclass(frozen=True)
class Window:
    """A clip of a video, ready for the networks."""

    clip: Clip
    start: float  # seconds from the first frame of the video
    end: float
    pixels: np.ndarray  # V_in, uint8 (T, H_in, W_in, 3)
    frames: dict[int, np.ndarray]  # source frames by index, uint8 (H, W, 3); shared with other windows


def video_of(video_id: str, path: Path, info: VideoInfo, clips: Clips, source_fps: float) -> PlannedVideo:
    """Return a video as the plan of a run would describe it."""
    path = path.resolve()
    return PlannedVideo(
        *(video_id, path, path.parent, info.num_frames(clips.fps or None)),
        *(clips.fps or round(float(info.source_fps), 6), (info.height, info.width), clips.fps or None),
        *(info.timing, source_fps or None, info.bytes, info.sha256, () if clips.fps else info.times),
        decoding=clips.decoding,
    )


def starts_by_stride(num_frames: int, clip_frames: int, step: int) -> list[int]:
    """Return the first frames of windows: every `step` frames, and the last window that fits; [0] in a short video."""
    last = max(0, num_frames - clip_frames)
    return [*range(0, last, step), last]


def starts_as_evaluated(num_frames: int, clips: Clips) -> list[int]:
    """Return the first frames of the clips that `evaluate` scores."""
    return [eval_start(number, clips.eval_clips, num_frames, clips.num_frames) for number in range(clips.eval_clips)]


def stride_frames(stride: float | None, clips: Clips, fps: float) -> int:
    """Return the frames from one window to the next: `stride` seconds; None for 1 s, or a quarter of a short window."""
    return max(1, round(min(1.0, clips.num_frames / fps / 4) * fps if stride is None else stride * fps))


def read_windows(video: PlannedVideo, starts: list[int], clips: Clips) -> Iterator[Window]:
    """Decode a video forward once and yield its windows, each as soon as its last frame has come.

    A frame is resized once for all windows, and dropped when the next window begins after it.

    Args:
        starts: first frames, rising.
    Raises:
        VideoError: the video cannot be read, or changes meanwhile; also after the last window.
    """
    theta = eval_theta(video.source_size, clips)
    indices = [frame_indices(start, clips.num_frames, video.num_frames) for start in starts]
    coming, held, last = decode_frames(video, (one for window in indices for one in window)), {}, -1
    for number, (start, wanted) in enumerate(zip(starts, indices, strict=True)):
        for index in [index for index in held if index < start]:
            del held[index]
        while last < wanted[-1]:
            last, frame = next(coming)
            with phases.phase("resize"):
                held[last] = frame, resize(frame, theta.resized_size)
        with phases.phase("resize"):
            pixels = crop_and_flip(np.stack([held[index][1] for index in wanted]), theta)
        seconds = video.seconds(start), video.seconds(wanted[-1] + 1)
        clip = Clip(video.video_id, number, 0, wanted, theta)
        yield Window(clip, *seconds, pixels, {index: held[index][0] for index in wanted})
    next(coming, None)  # no frame comes any more, but perhaps that the video has changed meanwhile
