"""Annotations: Charades CSV and a plain CSV, read strictly into one table of videos and one of actions.

Everything is text until it is proven to be a number: ids such as 07E49, 150E6, 00607, NA and null stay as they are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from cache.plan import Part
from pipeline.data.strict_csv import refuse


@dataclass(frozen=True)
class Annotations:
    """Who does what, when.

    Attributes:
        videos: video_id, split ("train" or "test"), length_seconds (NaN when unknown), in the order of the files,
            which breaks ties in the official metric.
        actions: video_id, class_index, start, end (seconds, both inclusive), in the order of the files. An action
            with impossible times keeps its row, for it labels the video, but its start and end are NaN.
        classes: names, by class index.
        notes: counts of "unlabelled" videos, "reversed" actions (not start < end), actions "past_the_end" (start
            at or after the video's length; these two have NaN times) and actions "cut_at_end".
    """

    videos: pd.DataFrame
    actions: pd.DataFrame
    classes: list[str]
    notes: dict[str, int]

    def video_targets(self, video_ids: Sequence[str]) -> np.ndarray:
        """uint8 (V, C): 1 where the class occurs at least once in the video, whatever its times (official rule).

        Raises:
            KeyError: an id is not in the table of videos.
        """
        targets = np.zeros((len(video_ids), len(self.classes)), np.uint8)
        for row, video_id in enumerate(video_ids):
            targets[row, self._by_video[video_id][0]] = 1
        return targets

    def frame_targets(self, video_id: str, times_seconds: np.ndarray) -> np.ndarray:
        """uint8 (T, C): 1 where start <= t <= end holds for at least one action of the class.

        Args:
            video_id: one of the table of videos.
            times_seconds: float (T,), counted from the first frame.
        Raises:
            KeyError: the id is not in the table of videos.
        """
        indices, starts, ends = self._by_video[video_id]
        times = np.asarray(times_seconds, np.float64)[:, None]
        moments, actions = np.nonzero((starts <= times) & (times <= ends))
        targets = np.zeros((len(times), len(self.classes)), np.uint8)
        targets[moments, indices[actions]] = 1
        return targets

    def clip_targets(self, part: Part, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Labels of planned clips.

        Args:
            rows: local rows of the part.
        Returns:
            labels of their videos, float32 (B, C), and of their frames, float32 (B, T, C).
        """
        clips = [part.clip(row) for row in rows]
        times = [np.array(clip.frame_indices) / part.fps[row] for clip, row in zip(clips, rows, strict=True)]
        return self.targets([clip.video_id for clip in clips], times)

    def targets(self, video_ids: Sequence[str], times_seconds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Labels of clips: of their videos, float32 (B, C), and of their frames, float32 (B, T, C).

        Args:
            times_seconds: for each clip float (T,), times of its frames, counted from the video's first frame.
        """
        frames = [self.frame_targets(*clip) for clip in zip(video_ids, times_seconds, strict=True)]
        return self.video_targets(video_ids).astype(np.float32), np.stack(frames).astype(np.float32)

    @cached_property
    def _by_video(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """video_id -> class_index, start, end of its actions."""
        rows = {video_id: [] for video_id in self.videos["video_id"]}
        columns = [self.actions[name].to_numpy() for name in ("class_index", "start", "end")]
        for row, video_id in enumerate(self.actions["video_id"]):
            rows[video_id].append(row)
        return {video_id: tuple(column[chosen] for column in columns) for video_id, chosen in rows.items()}


def judge(videos: list[tuple], actions: list[tuple], classes: list[str]) -> Annotations:
    """Judge ids and times of all files together. `videos` are (file, line, video_id, split, length_seconds)."""
    seen = {}
    for path, line, video_id, _, _ in videos:
        # Two ids that differ in case only are one file on some machines.
        if video_id.lower() in seen:
            refuse(path, line, "video id", video_id, f"no id twice; the first is in {seen[video_id.lower()]}")
        seen[video_id.lower()] = f"{path}, line {line}"
    lengths = {video_id: length for _, _, video_id, _, length in videos}
    notes = Counter(unlabelled=len(lengths.keys() - {action[0] for action in actions}), reversed=0)
    notes.update(past_the_end=0, cut_at_end=0)
    judged = []
    for video_id, index, start, end in actions:
        length = lengths[video_id]
        # A comparison with an unknown length, NaN, is false.
        reason = "reversed" if start >= end else "past_the_end" if start >= length else None
        if reason:
            notes[reason] += 1
            start, end = np.nan, np.nan
        elif end > length:
            notes["cut_at_end"] += 1
            end = length
        judged.append((video_id, index, start, end))
    table = pd.DataFrame([video[2:] for video in videos], columns=["video_id", "split", "length_seconds"])
    return Annotations(
        table.astype({"length_seconds": float}),
        pd.DataFrame(judged, columns=["video_id", "class_index", "start", "end"]).astype(
            {"class_index": np.int64, "start": float, "end": float}
        ),
        classes,
        dict(notes),
    )
