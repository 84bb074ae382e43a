"""Boxes of one's own, such as hands or persons that a detector found: a table in source pixels and seconds."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cache.fingerprint import file_sha256
from cache.geometry import Box, Clip
from pipeline.data.strict_csv import parse_seconds, read_rows, refuse

BOX = ("top", "left", "height", "width")
COLUMNS = ("video_id", "start", "end", *BOX)  # those of boxes.csv
SCORE = ("score",)  # may follow
SCORES = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
LARGEST = 10**6  # pixels; no frame has more along a side


@dataclass(frozen=True)
class Row:
    """A line of the table: a box in source pixels, from start to end, seconds; a larger score counts more."""

    line: int
    start: float
    end: float
    box: Box
    score: float = 1.0


class OwnRow(NamedTuple):
    """A row of the table as a clip sees it."""

    weight: float  # score times the seconds that it shares with the clip
    edges: tuple[Fraction, Fraction, Fraction, Fraction]  # top, left, bottom, right in the input frame, also outside


def mean_centre(rows: list[OwnRow]) -> tuple[float, float]:
    """Return the mean centre of some rows, (y, x), which count by their weight."""
    total = sum(row.weight for row in rows)
    shares = [row.weight / total for row in rows]
    middles = ([float(row.edges[axis] + row.edges[axis + 2]) / 2 for row in rows] for axis in (0, 1))
    return tuple(sum(one * middle for one, middle in zip(shares, of_axis, strict=True)) for of_axis in middles)


@dataclass(frozen=True)
class OwnBoxes:
    """A table of boxes, by video."""

    path: Path
    sha256: str
    rows: dict[str, list[Row]]

    def check_inside(self, video_id: str, size: tuple[int, int]) -> None:
        """Raise AnnotationError, with the line, where a box leaves the frames, (height, width), of its video."""
        for row in self.rows.get(video_id, []):
            if not row.box.inside(size):
                box = ", ".join(str(getattr(row.box, side)) for side in BOX)
                refuse(self.path, row.line, "top to width", box, f"a box inside {size[0]} x {size[1]} pixels")

    def check_videos(self, sizes: Mapping[str, tuple[int, int]], known: Iterable[str]) -> None:
        """Raise AnnotationError, with the line, where a row is of no known video, or leaves its frames.

        Args:
            sizes: (height, width) of the frames, by video.
            known: further videos, whose frames nobody could read.
        """
        for video_id, rows in self.rows.items():
            if video_id not in sizes and video_id not in set(known):
                such = ", ".join(sorted(sizes or known)[:3])
                refuse(self.path, rows[0].line, "video_id", video_id, f"a video of the run, such as {such}")
        for video_id, size in sizes.items():
            self.check_inside(video_id, size)

    def of_videos(self, video_ids: Collection[str]) -> bytes:
        """Write the rows of some videos as a table of their own."""
        rows = [(name, row) for name in self.rows if name in video_ids for row in self.rows[name]]
        lines = [(name, row.start, row.end, *(getattr(row.box, side) for side in BOX), row.score) for name, row in rows]
        return pd.DataFrame(lines, columns=COLUMNS + SCORE).to_csv(index=False, lineterminator="\n").encode()

    def evidence(self, clip: Clip, start: float, end: float, segments: int = 1) -> list[OwnRow] | list[list[OwnRow]]:
        """Return what `find_boxes` takes: the rows at the time of a clip, or those of each of its segments.

        A frame lasts as long as the mean one of the clip.
        """
        if segments == 1:
            return self.at(clip, start, end)
        indices, length = np.array(clip.frame_indices), len(clip.frame_indices) // segments
        frame = (end - start) / (indices[-1] + 1 - indices[0])
        edges = start + frame * (np.stack([indices[::length], indices[length - 1 :: length] + 1], 1) - indices[0])
        return [self.at(clip, *one) for one in edges.tolist()]

    def at(self, clip: Clip, start: float, end: float) -> list[OwnRow]:
        """Return the rows that share time with a clip from start to end, seconds."""
        shared = [(min(end, row.end) - max(start, row.start), row) for row in self.rows.get(clip.video_id, [])]
        return [OwnRow(row.score * time, clip.theta.to_input(row.box)) for time, row in shared if time > 0]


def read_own_boxes(path: Path) -> OwnBoxes:
    """Read a CSV with the header `video_id,start,end,top,left,height,width`, to which `,score` may be added.

    Raises:
        AnnotationError: a line has no seconds with start < end, no box of whole pixels, or no score above 0; names
            line and column.
    """
    rows: dict[str, list[Row]] = {}
    for line, values in read_rows(path, COLUMNS, SCORE):
        start, end = (parse_seconds(path, line, name, values[name]) for name in ("start", "end"))
        if start >= end:
            refuse(path, line, "end", values["end"], f"seconds after the start, {values['start']}")
        box = Box(*(_pixels(path, line, name, values[name]) for name in BOX))
        score = _score(path, line, values.get("score", "1"))
        rows.setdefault(values["video_id"], []).append(Row(line, start, end, box, score))
    return OwnBoxes(path, file_sha256(path), rows)


def _pixels(path: Path, line: int, name: str, text: str) -> int:
    least = 1 if name in ("height", "width") else 0
    if not (re.fullmatch(r"[0-9]{1,9}", text) and least <= int(text) <= LARGEST):
        refuse(path, line, name, text, f"a whole number of source pixels, at least {least}")
    return int(text)


def _score(path: Path, line: int, text: str) -> float:
    if not (SCORES.fullmatch(text) and 0 < float(text) <= 1e6):
        refuse(path, line, "score", text, "a number above 0, at most 1000000")
    return float(text)
