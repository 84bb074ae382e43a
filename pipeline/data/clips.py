"""Frames and clips of one video. Every command that decodes goes through `decode_frames`."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

import numpy as np

from cache.geometry import Box, Clip, boxes_by_frame
from cache.plan import Part
from pipeline.config import Decoding, Pixels
from pipeline.config_keys import LATER
from pipeline.data.pixels import apply_theta, crop_and_flip, cut_input, cut_source, resize
from pipeline.data.segments import split_path
from pipeline.data.shared_decode import Recording, Wanted, segment_frames
from pipeline.data.video.find import Kind
from pipeline.data.video.frames import Timing, read_frames
from pipeline.data.video.probe import video_content
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
    decoding: Decoding = "player"  # of a file
    start: Fraction | None = None  # of a segment, seconds from the recording's first frame; None: a whole video

    def seconds(self, index: int) -> float:
        """Return when a frame is shown; of index num_frames, when the video ends."""
        if not self.times:
            return index / self.fps
        return self.times[index] if index < len(self.times) else self.times[-1] + 1 / self.fps


def planned_video(part: Part, row: int, videos: Path) -> PlannedVideo:
    """Return the video of a local row; the plan's paths are relative to the folder `videos`."""
    values = part.rows.iloc[row]
    path, start = split_path(values.video_path)
    return PlannedVideo(
        values.video_id,
        videos / path,
        videos,
        int(values.num_frames),
        float(values.fps),
        (int(values.source_height), int(values.source_width)),
        part.settings["fps"] or None,
        values.video_timing,
        part.settings["source_fps"] or None,
        int(values.video_bytes),
        values.video_sha256,
        decoding=part.settings.get("decoding", LATER["decoding"]),
        start=start,
    )


def training_videos(parts: Iterable[Part], videos: Path) -> list[PlannedVideo]:
    """Return every training video of the plan, once, in its order; see `planned_video`."""
    found = []
    for part in (part for part in parts if part.split == "train"):
        firsts = range(0, part.num_rows, part.rows_per_video)
        # later parts may hold further augmentations of known videos
        found += [planned_video(part, row, videos) for row in firsts if part.rows.aug_index.iat[row] == 0]
    return found


def check_unchanged(video: PlannedVideo) -> Kind:
    """Refuse a file or folder of frames other than the one that `prepare` decoded with limits of time and memory.

    Returns:
        which of the two it is.

    Raises:
        VideoChanged: it has another size or content.
        UnsafePath: a link leads out of the folder of videos.
        VideoError: it cannot be read, or is neither a file nor a folder of frames.
    """
    try:
        kind, size, sha256 = video_content(video.path, video.root)
    except OSError as error:
        raise VideoUnreadable(f"{video.path}: {error.strerror}") from error
    if size != video.num_bytes:
        raise VideoChanged(f"{video.path} has {size} bytes, {video.num_bytes} when it was prepared")
    if sha256 != video.sha256:
        raise VideoChanged(f"{video.path} has other content than when it was prepared")
    return kind


def decode_frames(
    video: PlannedVideo, indices: Iterable[int], later: Iterable[tuple[PlannedVideo, Iterable[int]]] = ()
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode some frames, at the plan's rate, of a video that is still the one `prepare` saw, each once, in order.

    So no bytes reach the decoder here that it has not decoded before, whole, within the limits of time and memory.

    Args:
        later: segments of the same recording and their frames, see `segment_frames`.
    Yields:
        (frame index, uint8 (H, W, 3) RGB source frame)
    Raises:
        VideoChanged: it is not the one that was prepared; after the last frame, also if it changed since the first.
        VideoError: it cannot be read.
    """
    with phases.phase("decode"):
        kind = check_unchanged(video)
    wanted = sorted(set(indices))
    if video.start is None:
        how = video.timing, video.folder_fps, video.decoding, kind
        frames = read_frames(video.path, wanted, video.rate, *how)
    else:
        recording = Recording(video.path, video.timing, video.folder_fps, video.sha256, video.decoding)
        frames = segment_frames(recording, _wanted(video, wanted), [_wanted(*one) for one in later])
    for index, frame in phases.timed_items("decode", frames):
        if frame.shape[:2] != video.source_size:  # the same bytes, decoded by another version
            sizes = f"{frame.shape[:2]}, {video.source_size} when it was prepared (height, width)"
            raise VideoChanged(f"{video.path}: frame {index} is {sizes}")
        yield index, frame
    with phases.phase("decode"):
        check_unchanged(video)  # nor has it changed meanwhile


def _wanted(segment: PlannedVideo, indices: Iterable[int]) -> Wanted:
    """Return when frames of a segment, sorted, are shown in its recording."""
    step = 1 / Fraction(str(segment.rate))
    return [(segment.start + index * step, index) for index in indices]


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
    video, indices = planned_video(part, rows[0], videos), _frames_of(part, rows)
    following = (rows[0] // part.rows_per_video + 1) * part.rows_per_video
    others = (
        (planned_video(part, row, videos), _frames_of(part, range(row, row + part.rows_per_video)))
        for row in range(following, part.num_rows, part.rows_per_video)
    )
    for index, frame in decode_frames(video, indices, overlapping(video, indices[-1], others)):
        yield index, frame, zlib.crc32(frame)


def _frames_of(part: Part, rows: Iterable[int]) -> list[int]:
    """Return the frames that any of some local rows needs, sorted."""
    return sorted({index for row in rows for index in part.clip(row).frame_indices})


def overlapping(
    video: PlannedVideo, last: int, others: Iterable[tuple[PlannedVideo, Iterable[int]]]
) -> list[tuple[PlannedVideo, Iterable[int]]]:
    """Return those of the videos after a segment, with their frames, that begin in its recording before frame `last`.

    Segments of a recording stand in a plan one after the other, in the order of their starts.
    """

    def overlaps(other: tuple[PlannedVideo, Iterable[int]]) -> bool:
        return other[0].path == video.path and other[0].start <= video.start + last / Fraction(str(video.rate))

    return [] if video.start is None else list(takewhile(overlaps, others))


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
        with phases.phase("resize"):  # cropped one by one, so that less is copied
            volume = np.stack([crop_and_flip(there[index][0], clip.theta) for index in clip.frame_indices])
        yield row, volume, np.array([there[index][1] for index in clip.frame_indices], np.uint32)
    next(coming, None)  # no frame comes any more, but perhaps that the video has changed meanwhile


def cut_rows(part: Part, boxes_input: Mapping[int, Box], videos: Path) -> dict[int, np.ndarray]:
    """Decode one video and cut the focused volumes of some of its rows, while one source frame is alive at a time.

    Args:
        boxes_input: by local row.
    Returns:
        by row, uint8 (T, H_in, W_in, 3). Raises as `source_frames`.
    """
    clips = {row: part.clip(row) for row in boxes_input}
    volumes = {row: np.empty((part.num_frames, *part.input_size, 3), np.uint8) for row in boxes_input}
    for index, frame, _ in source_frames(part, list(boxes_input), videos):
        with phases.phase("resize"):
            for row, clip in clips.items():
                places = [place for place, wanted in enumerate(clip.frame_indices) if wanted == index]
                if places:
                    volumes[row][places] = cut_source(frame, clip.theta, boxes_input[row], part.input_size)
    return volumes


def input_volume(clip: Clip, frames: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return V_in of a clip, uint8 (T, H_in, W_in, 3), from its source frames by index; each is resized once."""
    found = {index: apply_theta(frames[index], clip.theta) for index in set(clip.frame_indices)}
    return np.stack([found[index] for index in clip.frame_indices])


def focused_volumes(
    clip: Clip,
    boxes_input: list[Box],
    pixels: Pixels,
    frames: Mapping[int, np.ndarray],
    frames_input: np.ndarray,
    segments: int = 1,
) -> np.ndarray:
    """Cut the focused volumes of a clip, each frame of a box once; see `focused_volume`.

    Args:
        segments: of time; of several, each has one of the boxes, and together they cut one volume.
    Returns:
        uint8 (T, H_in, W_in, 3), of k boxes (k, T, H_in, W_in, 3).
    """
    looks = boxes_by_frame(boxes_input, len(clip.frame_indices), segments)
    volumes = [focused_volume(clip, look, pixels, frames, frames_input) for look in looks]
    return volumes[0] if len(volumes) == 1 else np.stack(volumes)


def focused_volume(
    clip: Clip, boxes_input: list[Box], pixels: Pixels, frames: Mapping[int, np.ndarray], frames_input: np.ndarray
) -> np.ndarray:
    """Cut the focused volume of one look at a clip (eq. 2), each frame at a box once.

    Args:
        boxes_input: of every frame.
        pixels: cut from the "source" frames, or enlarged from the "input".
        frames: source frames by index, uint8 (*theta.source_size, 3); not read for "input".
        frames_input: V_in, uint8 (T, H_in, W_in, 3).
    Returns:
        uint8 (T, H_in, W_in, 3).
    """
    size = clip.theta.input_size
    if pixels == "input":
        return np.stack([cut_input(*one, size) for one in zip(frames_input, boxes_input, strict=True)])
    wanted = list(zip(clip.frame_indices, boxes_input, strict=True))
    cut = {(index, box): cut_source(frames[index], clip.theta, box, size) for index, box in set(wanted)}
    return np.stack([cut[one] for one in wanted])
