"""Annotations of any format as one table of videos and one of actions. Ids such as 150E6, 00607 and NA stay text."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from cache.geometry import Clip
from cache.plan import Part
from pipeline.config import Task
from pipeline.data.segments import Source
from pipeline.data.strict_csv import composed, refuse
from pipeline.errors import AnnotationError


@dataclass(frozen=True)
class Annotations:
    """Who does what, when; tables in the order of the files, which breaks ties in the official metric.

    An action with impossible times still labels its video, but its start and end are NaN: one that is "reversed" (start
    after end), or begins "past_the_end" of its video.
    """

    videos: pd.DataFrame  # video_id, split ("train" or "test"), length_seconds (NaN when unknown)
    actions: pd.DataFrame  # video_id, class_index, start, end (seconds, both inclusive)
    classes: list[str]  # names, by class index
    notes: dict[str, int]  # counts of "unlabelled" videos; of actions "reversed", "past_the_end" and "cut_at_end"
    not_single: dict[str, str] = field(default_factory=dict)  # by id, with file and line: videos with no class, or two
    task: Task = "multi_label"
    # seconds of every frame at the plan's rate, by id: of videos where they are not the frames' numbers / fps
    frame_times: dict[str, np.ndarray] = field(default_factory=dict)
    # where a sample is found, by id: of segments, and of videos whose table names a path
    sources: dict[str, Source] = field(default_factory=dict)

    def source(self, video_id: str) -> Source:
        """Return where a sample is found; the one of its id where the table says no other."""
        return self.sources.get(video_id) or Source(video_id)

    def for_task(self, task: Task) -> "Annotations":
        """Return the annotations for a task. AnnotationError, which names file and line: not one class a video."""
        known = set(self.videos.video_id)
        wrong = [text for video_id, text in self.not_single.items() if video_id in known]
        if task == "single_label" and wrong:
            raise AnnotationError(f"{wrong[0]}; expected one class a video (data.task is single_label)")
        return replace(self, task=task)

    def video_targets(self, video_ids: Sequence[str]) -> np.ndarray:
        """Return uint8 (V, C): 1 where the class occurs in the video, whatever its times. KeyError: an unknown id."""
        targets = np.zeros((len(video_ids), len(self.classes)), np.uint8)
        for row, video_id in enumerate(video_ids):
            targets[row, self._by_video[video_id][0]] = 1
        return targets

    def seconds(self, video_id: str, frames: Sequence[int], fps: float) -> np.ndarray:
        """Return when frames of a video are shown, by their numbers at the plan's rate, float64 (T,)."""
        known = self.frame_times.get(video_id)
        return np.array(frames) / fps if known is None else known[list(frames)]

    def clip_seconds(self, clip: Clip, fps: float) -> tuple[float, float]:
        """Return when a clip begins and ends, at the plan's frames a second."""
        first, last = self.seconds(clip.video_id, (clip.frame_indices[0], clip.frame_indices[-1]), fps).tolist()
        return first, last + 1 / fps

    def frame_targets(self, video_id: str, times_seconds: np.ndarray) -> np.ndarray:
        """Return uint8 (T, C): 1 where start <= t <= end for an action of the class. KeyError: an unknown id.

        A moment, start = end, labels the frame that is on screen then: the last one that is shown at or before it.

        Args:
            times_seconds: float (T,), counted from the first frame.
        """
        indices, starts, ends = self._by_video[video_id]
        times = np.asarray(times_seconds, np.float64)[:, None]
        inside = (starts <= times) & (times <= ends)
        if (starts == ends).any():
            shown = np.unique(times)  # a short video's last frame comes again
            step = np.diff(shown).min(initial=np.inf) if len(shown) > 1 else 0.0
            stops = np.append(shown[1:], shown[-1] + step)[np.searchsorted(shown, times)]
            inside |= (starts == ends) & (times <= starts) & (starts < stops)
        moments, actions = np.nonzero(inside)
        targets = np.zeros((len(times), len(self.classes)), np.uint8)
        targets[moments, indices[actions]] = 1
        return targets

    def clip_targets(self, part: Part, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the targets of planned clips by their local rows; see `targets`."""
        clips = [part.clip(row) for row in rows]
        times = [
            self.seconds(clip.video_id, clip.frame_indices, part.fps[row])
            for clip, row in zip(clips, rows, strict=True)
        ]
        return self.targets([clip.video_id for clip in clips], times)

    def targets(self, video_ids: Sequence[str], times_seconds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of the clips' videos, float32 (B, C), and of their frames, float32 (B, T, C).

        With a single label, the frames of a video without times have none: its label says nothing about frames.

        Args:
            times_seconds: of each clip's frames, float (T,), counted from the video's first frame.
        """
        frames = [self.frame_targets(*clip) for clip in zip(video_ids, times_seconds, strict=True)]
        if self.task == "single_label":
            timed = [not np.isinf(self._by_video[video_id][2]).any() for video_id in video_ids]
            frames = [of_clip * known for of_clip, known in zip(frames, timed, strict=True)]
        return self.video_targets(video_ids).astype(np.float32), np.stack(frames).astype(np.float32)

    @cached_property
    def _by_video(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Map each video id to class_index, start and end of its actions."""
        rows = self.actions.groupby("video_id").indices
        columns = [self.actions[name].to_numpy() for name in ("class_index", "start", "end")]
        ids = self.videos["video_id"]
        return {video_id: tuple(column[rows.get(video_id, [])] for column in columns) for video_id in ids}


def judge(videos: list[tuple], actions: list[tuple], classes: list[str]) -> Annotations:
    """Judge ids and times of all files together; an id that comes twice is an AnnotationError.

    Args:
        videos: (file, line, video_id, split, length_seconds).
        actions: (video_id, class_index, start, end), and the line of the action where it is not that of its video.
    """
    seen = {}
    for path, line, video_id, _, _ in videos:
        # Two ids that differ in case only are one file on some machines.
        if (same := composed(video_id).lower()) in seen:
            refuse(path, line, "video id", video_id, f"no id twice; the first is in {seen[same]}")
        seen[same] = f"{path}, line {line}"
    lengths = {video_id: length for _, _, video_id, _, length in videos}
    unlabelled = len(lengths.keys() - {action[0] for action in actions})
    notes = {"unlabelled": unlabelled, "reversed": 0, "past_the_end": 0, "cut_at_end": 0}
    judged = []
    for video_id, index, start, end, *_ in actions:
        length = lengths[video_id]
        # A comparison with an unknown length, NaN, is false.
        reason = "reversed" if start > end else "past_the_end" if start >= length else None
        if reason:
            notes[reason] += 1
            start, end = np.nan, np.nan
        elif end > length:
            notes["cut_at_end"] += 1
            end = length
        judged.append((video_id, index, start, end))
    video_table = pd.DataFrame([video[2:] for video in videos], columns=["video_id", "split", "length_seconds"])
    action_table = pd.DataFrame(judged, columns=["video_id", "class_index", "start", "end"])
    types = {"class_index": np.int64, "start": float, "end": float}
    tables = video_table.astype({"length_seconds": float}), action_table.astype(types)
    return Annotations(*tables, classes, notes, _not_single(videos, actions, classes))


def _not_single(videos: list[tuple], actions: list[tuple], classes: list[str]) -> dict[str, str]:
    """Say where videos have a second class, and then where they have none, by id; see `judge`."""
    places, found, wrong = {video_id: (path, line) for path, line, video_id, *_ in videos}, {}, {}
    for video_id, index, _, _, *own in actions:
        if (first := found.setdefault(video_id, index)) != index:
            path, line = places[video_id]
            text = f"{path}, line {(*own, line)[0]}: {video_id} is {classes[first]!r} and {classes[index]!r}"
            wrong.setdefault(video_id, text)
    missing = (one for one in places if one not in found)
    return wrong | {one: "{}, line {}: {} has no label".format(*places[one], one) for one in missing}
