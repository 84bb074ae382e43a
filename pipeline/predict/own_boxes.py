"""Boxes of one's own, such as hands or persons that a detector found: where the second network looks instead."""

import math
from dataclasses import dataclass
from pathlib import Path

from cache.fingerprint import file_sha256
from cache.geometry import Box, Clip
from pipeline.data.strict_csv import parse_seconds, read_rows, refuse
from pipeline.run.predictions import BOX

COLUMNS = ("video_id", "start", "end", *BOX)  # those of boxes.csv


@dataclass(frozen=True)
class Row:
    """A line of the table: a box in source pixels, from start to end, seconds."""

    line: int
    start: float
    end: float
    box: Box


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

    def box_input(self, clip: Clip, start: float, end: float, side: int) -> Box | None:
        """Return the box of a window: of the run's size, around the mean centre of the table's boxes at its time.

        They count by the seconds that they share with the window. None where there is none.
        """
        shared = [(min(end, row.end) - max(start, row.start), row) for row in self.rows.get(clip.video_id, [])]
        shared = [(seconds, row) for seconds, row in shared if seconds > 0]
        if not shared:
            return None
        total, corner = sum(seconds for seconds, _ in shared), []
        edges = [(seconds / total, clip.theta.to_input(row.box)) for seconds, row in shared]
        for axis, length in enumerate(clip.theta.input_size):
            centre = sum(share * float(box[axis] + box[axis + 2]) / 2 for share, box in edges)
            corner.append(min(max(0, math.floor(centre - side / 2 + 0.5)), length - side))
        return Box(*corner, side, side)


def read_own_boxes(path: Path) -> OwnBoxes:
    """Read a CSV with the header `video_id,start,end,top,left,height,width`.

    Raises:
        AnnotationError: a line has no seconds with start < end, or no box of whole pixels; names line and column.
    """
    rows: dict[str, list[Row]] = {}
    for line, values in read_rows(path, COLUMNS):
        start, end = (parse_seconds(path, line, name, values[name]) for name in ("start", "end"))
        if start >= end:
            refuse(path, line, "end", values["end"], f"seconds after the start, {values['start']}")
        for name in BOX:
            least = 1 if name in ("height", "width") else 0
            if not (values[name].isascii() and values[name].isdecimal() and least <= int(values[name][:9]) <= 10**6):
                refuse(path, line, name, values[name], f"a whole number of source pixels, at least {least}")
        rows.setdefault(values["video_id"], []).append(Row(line, start, end, Box(*(int(values[one]) for one in BOX))))
    return OwnBoxes(path, file_sha256(path), rows)
