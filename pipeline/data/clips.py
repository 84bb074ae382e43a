"""The clips of one video, from one forward pass over its frames."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.fingerprint import unchanged_sha256
from cache.plan import Part
from pipeline.data.pixels import crop_and_flip, resize
from pipeline.data.video.frames import read_frames
from pipeline.errors import VideoChanged, VideoUnreadable
from pipeline.run.folder import Workspace
from pipeline.workers import phases


def video_rows(part: Part, unit: int) -> Iterator[tuple[str, list[int]]]:
    """(video_id, its local rows) for every video of a unit."""
    rows = part.unit_rows(unit)
    for first in range(rows.start, rows.stop, part.rows_per_video):
        yield part.rows.video_id.iat[first], list(range(first, first + part.rows_per_video))


def source_frames(workspace: Workspace, part: Part, rows: list[int]) -> Iterator[tuple[int, np.ndarray, int]]:
    """Decode the frames that any of a video's rows needs, each once.

    Yields:
        (frame index at the plan's rate, uint8 (H, W, 3) RGB source frame, CRC-32 of its bytes)
    Raises:
        VideoError: the file cannot be read, or is not the one that was probed.
    """
    row = part.rows.iloc[rows[0]]
    path = workspace.videos_root / row.video_path
    with phases.phase("decode"):
        _check_unchanged(path, row.video_bytes, row.video_sha256)
    wanted = sorted({index for one in rows for index in part.clip(one).frame_indices})
    settings = part.settings
    rate, source_fps = settings["fps"] or None, settings["source_fps"] or None
    for index, frame in phases.each("decode", read_frames(path, wanted, rate, row.video_timing, source_fps)):
        yield index, frame, zlib.crc32(frame)


def _check_unchanged(path: Path, num_bytes: int, sha256: str) -> None:
    """Decode only what `prepare` decoded whole in a process of its own, within limits: the same bytes.

    Frames of a folder are JPEG files of bounded size; the folder is not read twice.
    """
    if not path.is_file():
        return
    if (size := path.stat().st_size) != num_bytes:
        raise VideoChanged(f"{path} has {size} bytes, {num_bytes} when it was prepared")
    try:
        found = unchanged_sha256(path)
    except OSError as error:
        raise VideoUnreadable(f"{path}: {error.strerror}") from error
    if found != sha256:
        raise VideoChanged(f"{path} has other content than when it was prepared")


def input_clips(workspace: Workspace, part: Part, rows: list[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """V_in of every row of one video, decoded now; see `cut_clips`."""
    yield from cut_clips(part, rows, resized_frames(workspace, part, rows))


def resized_frames(workspace: Workspace, part: Part, rows: list[int]) -> Iterator[tuple[int, np.ndarray, int]]:
    """Every frame that a video's rows need, once and in order; the rows share the resize, no source frame is held.

    Yields:
        (frame index at the plan's rate, uint8 (h, w, 3) after the resize, CRC-32 of the source frame)
    Raises:
        VideoError: as `source_frames`.
    """
    size = part.clip(rows[0]).theta.resized_size
    for index, frame, checksum in source_frames(workspace, part, rows):
        with phases.phase("resize"):
            resized = resize(frame, size)
        yield index, resized, checksum


def cut_clips(
    part: Part, rows: list[int], frames: Iterable[tuple[int, np.ndarray, int]]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """V_in of every row of one video, each as soon as its last frame has come.

    Args:
        frames: of `resized_frames`.
    Yields:
        (local row, uint8 (T, H_in, W_in, 3), uint32 (T,) CRC-32 of the source frames)
    Raises:
        VideoError: as `resized_frames`, at the first row that lacks a frame.
    """
    coming, there, last = iter(frames), {}, -1
    for row in rows:
        clip = part.clip(row)
        while last < max(clip.frame_indices):
            last, frame, checksum = next(coming)
            there[last] = frame, checksum
        with phases.phase("resize"):
            volume = crop_and_flip(np.stack([there[index][0] for index in clip.frame_indices]), clip.theta)
        yield row, volume, np.array([there[index][1] for index in clip.frame_indices], np.uint32)


@dataclass(frozen=True)
class TrainVideo:
    """What a training video's clips are cut from, where no stored row says it."""

    video_id: str
    path: Path
    timing: str
    num_frames: int
    fps: float
    source_size: tuple[int, int]


def train_videos(workspace: Workspace) -> list[TrainVideo]:
    """Every training video of the plan, once, in its order."""
    videos = []
    for part in workspace.parts_of("train"):
        for row in range(0, part.num_rows, part.rows_per_video):
            values = part.rows.iloc[row]
            if values.aug_index == 0:  # later parts may hold further augmentations of known videos
                path = workspace.videos_root / values.video_path
                size = (int(values.source_height), int(values.source_width))
                videos.append(
                    TrainVideo(values.video_id, path, values.video_timing, int(values.num_frames), values.fps, size)
                )
    return videos
