"""Frames and clips of one video. Every command that decodes goes through `decode_frames`."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.geometry import Box, Clip
from cache.plan import Part
from pipeline.config import Pixels
from pipeline.data.pixels import apply_theta, crop_and_flip, cut_input, cut_source, resize
from pipeline.data.video.find import check_inside
from pipeline.data.video.frames import Timing, read_frames, video_content
from pipeline.errors import VideoChanged, VideoUnreadable
from pipeline.workers import phases


@dataclass(frozen=True)
class PlannedVideo:
    """A video as `prepare` saw it and as the plan describes it."""

    video_id: str
    path: Path  # the file, or the folder of frames
    root: Path  # the folder that it must lie in, links followed, unless it is a LinkedFolder
    num_frames: int  # at the plan's rate
    fps: float  # the plan's rate, or the video's own where the plan has none
    source_size: tuple[int, int]  # (height, width) of a frame, pixels
    rate: float | None  # frames a second to decode at; None = every frame of the video
    timing: Timing  # where the time of a frame comes from, see `VideoInfo`
    folder_fps: float | None  # rate of a folder of frames; None = there are none
    num_bytes: int
    sha256: str
    times: tuple[float, ...] = ()  # seconds of every frame, where they are not the frames' numbers / fps

    def seconds(self, index: int) -> float:
        """Return when a frame is shown; of index num_frames, when the video ends."""
        if not self.times:
            return index / self.fps
        return self.times[index] if index < len(self.times) else self.times[-1] + 1 / self.fps


def planned_video(part: Part, row: int, videos: Path) -> PlannedVideo:
    """Return the video of a local row; the plan's paths are relative to the folder `videos`."""
    values = part.rows.iloc[row]
    return PlannedVideo(
        values.video_id,
        videos / values.video_path,
        videos,
        int(values.num_frames),
        float(values.fps),
        (int(values.source_height), int(values.source_width)),
        part.settings["fps"] or None,
        values.video_timing,
        part.settings["source_fps"] or None,
        int(values.video_bytes),
        values.video_sha256,
    )


def training_videos(parts: Iterable[Part], videos: Path) -> list[PlannedVideo]:
    """Return every training video of the plan, once, in its order; see `planned_video`."""
    found = []
    for part in (part for part in parts if part.split == "train"):
        firsts = range(0, part.num_rows, part.rows_per_video)
        # later parts may hold further augmentations of known videos
        found += [planned_video(part, row, videos) for row in firsts if part.rows.aug_index.iat[row] == 0]
    return found


def check_unchanged(video: PlannedVideo) -> None:
    """Refuse a file or folder of frames other than the one that `prepare` decoded with limits of time and memory.

    Raises:
        VideoChanged: it has another size or content.
        UnsafePath: a link leads out of the folder of videos.
        VideoError: it cannot be read, or is neither a file nor a folder of frames.
    """
    check_inside(video.path, video.root)
    try:
        size, sha256 = video_content(video.path)
    except OSError as error:
        raise VideoUnreadable(f"{video.path}: {error.strerror}") from error
    if size != video.num_bytes:
        raise VideoChanged(f"{video.path} has {size} bytes, {video.num_bytes} when it was prepared")
    if sha256 != video.sha256:
        raise VideoChanged(f"{video.path} has other content than when it was prepared")


def decode_frames(video: PlannedVideo, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Decode some frames, at the plan's rate, of a video that is still the one `prepare` saw, each once, in order.

    So no bytes reach the decoder here that it has not decoded before, whole, within the limits of time and memory.

    Yields:
        (frame index, uint8 (H, W, 3) RGB source frame)
    Raises:
        VideoChanged: it is not the one that was prepared; after the last frame, also if it changed since the first.
        VideoError: it cannot be read.
    """
    with phases.phase("decode"):
        check_unchanged(video)
    wanted = sorted(set(indices))
    frames = read_frames(video.path, wanted, video.rate, video.timing, video.folder_fps)
    for index, frame in phases.timed_items("decode", frames):
        if frame.shape[:2] != video.source_size:  # the same bytes, decoded by another version
            sizes = f"{frame.shape[:2]}, {video.source_size} when it was prepared (height, width)"
            raise VideoChanged(f"{video.path}: frame {index} is {sizes}")
        yield index, frame
    with phases.phase("decode"):
        check_unchanged(video)  # nor has it changed meanwhile


def resize_frames(frames: Iterable[tuple], size: tuple[int, int]) -> Iterator[tuple]:
    """Resize what `decode_frames` or `source_frames` yield to uint8 (*size, 3) as it comes; hold no source frame."""
    for index, frame, *checksum in frames:
        with phases.phase("resize"):
            frame = resize(frame, size)
        yield index, frame, *checksum


def video_rows(part: Part, unit: int) -> Iterator[tuple[str, list[int]]]:
    """Yield (video_id, its local rows) for every video of a unit."""
    rows = part.unit_rows(unit)
    for first in range(rows.start, rows.stop, part.rows_per_video):
        yield part.rows.video_id.iat[first], list(range(first, first + part.rows_per_video))


def source_frames(part: Part, rows: list[int], videos: Path) -> Iterator[tuple[int, np.ndarray, int]]:
    """Decode the frames that any of a video's local rows needs, each once.

    Yields:
        (frame index at the plan's rate, uint8 (H, W, 3) RGB source frame, CRC-32 of its bytes); see `decode_frames`.
    """
    indices = (index for row in rows for index in part.clip(row).frame_indices)
    for index, frame in decode_frames(planned_video(part, rows[0], videos), indices):
        yield index, frame, zlib.crc32(frame)


def resized_frames(part: Part, rows: list[int], videos: Path) -> Iterator[tuple[int, np.ndarray, int]]:
    """Decode and resize the frames of `source_frames`; all rows of a video share the resize.

    Yields:
        (frame index at the plan's rate, uint8 (h, w, 3) after the resize, CRC-32 of the source frame)
    """
    return resize_frames(source_frames(part, rows, videos), part.clip(rows[0]).theta.resized_size)


def input_clips(part: Part, rows: list[int], videos: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Decode V_in of every row of one video; see `cut_clips`."""
    return cut_clips(part, rows, resized_frames(part, rows, videos))


def cut_clips(
    part: Part, rows: list[int], frames: Iterable[tuple[int, np.ndarray, int]]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Cut V_in of every row of one video from its `resized_frames`, each as soon as its last frame has come.

    Yields:
        (local row, uint8 (T, H_in, W_in, 3), uint32 (T,) CRC-32 of the source frames)
    Raises:
        VideoError: as `resized_frames`, at the first row that lacks a frame, or after the last row.
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
    next(coming, None)  # no frame comes any more, but perhaps that the video has changed meanwhile


def input_volume(clip: Clip, frames: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return V_in of a clip, uint8 (T, H_in, W_in, 3), from its source frames by index; each is resized once."""
    found = {index: apply_theta(frames[index], clip.theta) for index in set(clip.frame_indices)}
    return np.stack([found[index] for index in clip.frame_indices])


def focused_volumes(
    clip: Clip, boxes_input: list[Box], pixels: Pixels, frames: Mapping[int, np.ndarray], frames_input: np.ndarray
) -> np.ndarray:
    """Cut the focused volumes of a clip, each frame of a box once; see `focused_volume`.

    Returns:
        uint8 (T, H_in, W_in, 3), of k boxes (k, T, H_in, W_in, 3).
    """
    volumes = [focused_volume(clip, box, pixels, frames, frames_input) for box in boxes_input]
    return volumes[0] if len(volumes) == 1 else np.stack(volumes)


def focused_volume(
    clip: Clip, box_input: Box, pixels: Pixels, frames: Mapping[int, np.ndarray], frames_input: np.ndarray
) -> np.ndarray:
    """Cut the focused volume of one box of a clip (eq. 2), each frame once.

    Args:
        pixels: cut from the "source" frames, or enlarged from the "input".
        frames: source frames by index, uint8 (*theta.source_size, 3); not read for "input".
        frames_input: V_in, uint8 (T, H_in, W_in, 3).
    Returns:
        uint8 (T, H_in, W_in, 3).
    """
    size = clip.theta.input_size
    if pixels == "input":
        return np.stack([cut_input(frame, box_input, size) for frame in frames_input])
    cut = {index: cut_source(frames[index], clip.theta, box_input, size) for index in set(clip.frame_indices)}
    return np.stack([cut[index] for index in clip.frame_indices])
