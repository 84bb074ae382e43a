"""Samples that are not whole videos named by their id: segments of a recording, and files that a table names by path.

In a plan, a segment's path ends as a media fragment does (W3C): `kitchen/P01.mp4#t=12.5,15`.
"""

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from pipeline.data.strict_csv import seconds_text
from pipeline.data.video.find import check_inside, find_video, video_kind
from pipeline.errors import SegmentOutside, VideoMissing

FRAGMENT = re.compile(r"(.*)#t=([0-9][0-9.e-]*),([0-9][0-9.e-]*)", re.DOTALL)


class Source(NamedTuple):
    """Where a sample is found."""

    video_id: str  # in the table; the name of the file where there is no path
    path: str = ""  # of the file or folder of frames, from data.videos
    start: float | None = None  # of a segment, seconds from the first frame of the recording; None: a whole video
    end: float | None = None

    @property
    def fragment(self) -> str:
        """What a segment's path ends with; "" of a whole video."""
        return "" if self.start is None else f"#t={seconds_text(self.start)},{seconds_text(self.end)}"

    def find(self, root: Path) -> Path:
        """Return the file or folder of frames; raises as `find_video`."""
        if not self.path:
            return find_video(root, self.video_id)
        if not (root / self.path).exists():
            raise VideoMissing(f"{root.resolve()}: no {self.path} (column path, {self.video_id})")
        found = check_inside(root.resolve() / self.path, root)
        video_kind(found)
        return found if found.is_relative_to(root.resolve()) else root.resolve() / self.path

    def extent(self, duration: Fraction, fps: float) -> tuple[int, float]:
        """Return how many frames at the rate fps, and how many seconds, a segment has in a recording of this duration.

        Raises:
            SegmentOutside: the recording ends before the segment begins.
        """
        start = Fraction(seconds_text(self.start))
        length = min(Fraction(seconds_text(self.end)), duration) - start
        if length <= 0:
            ends = f"its recording ends at {float(duration):g} s"
            raise SegmentOutside(f"{self.video_id}: a segment begins at {self.start:g} s, {ends}")
        return math.ceil(length * Fraction(str(fps))), round(float(length), 6)


def split_path(path: str) -> tuple[str, Fraction | None]:
    """Split a plan's path into that of the file and the start of the segment, seconds; None of a whole video."""
    found = FRAGMENT.fullmatch(path)
    return (found[1], Fraction(found[2])) if found else (path, None)


def is_segment(path: str) -> bool:
    """Say whether a plan's path is that of a segment."""
    return split_path(path)[1] is not None


def planned_sources(paths: dict[str, str]) -> dict[str, Source]:
    """Return where samples are found, as a table would say it, by the paths that a plan has for their ids."""
    recordings, sources = {}, {}
    for video_id, path in paths.items():
        if found := FRAGMENT.fullmatch(path):
            name = recordings.setdefault(found[1], f"recording-{len(recordings)}")
            sources[video_id] = Source(name, found[1], float(found[2]), float(found[3]))
        elif path not in (video_id, f"{video_id}{Path(path).suffix}"):
            sources[video_id] = Source(video_id, path)
    return sources
