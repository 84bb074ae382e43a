"""Labels that begin after the end of their video, and the unit that their times may be in."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.data.annotations import Annotations

UNITS = {"frames": None, "hundredths of a second": 100, "milliseconds": 1000}  # in a second; the smallest that fits
FITS = 0.95  # of the labels that are past the end must lie in their videos for a unit to be named,
START = 0.1  # of a video: labels that would all end in it are seconds after all
SHARE = 0.1  # and such a share of all labels must be past the end


class PastTheEnd(NamedTuple):
    """Labels that begin at or after the end of their video."""

    count: int
    total: int  # labels with times of the videos that are known
    unit: str  # of UNITS; "" where none fits, or few labels are past the end
    example: str  # the first, in words; "" where the annotation format has no times for it any more

    @property
    def text(self) -> str:
        """Say how many, what their unit may be, and the first."""
        by = UNITS[self.unit] or "the rate of their video" if self.unit else ""
        unit = f"; these look like {self.unit}, and times are in seconds: divide them by {by}" if self.unit else ""
        example = f" ({self.example})" if self.example else ""
        return f"{self.count} of {self.total} labels begin after the end of their video{example}{unit}"


def past_the_end(annotations: Annotations, videos: pd.DataFrame) -> PastTheEnd:
    """Compare labels with the videos as they were decoded.

    Args:
        videos: video_id, duration_seconds, source_fps, of the videos that are known.
    """
    known = annotations.actions.merge(videos[["video_id", "duration_seconds", "source_fps"]], on="video_id")
    timed = known[np.isfinite(known.end)]
    outside = timed[timed.start >= timed.duration_seconds]
    lost = min(
        annotations.notes.get("past_the_end", 0), int(known.start.isna().sum())
    )  # by the lengths in the table itself
    if outside.empty:
        return PastTheEnd(lost, len(timed) + lost, "", "")
    first = outside.iloc[0]
    label = annotations.classes[first.class_index]
    example = f"{first.video_id} ends at {first.duration_seconds:g} s, its label {label!r} is from {first.start:.10g}"
    unit = _unit(outside) if len(outside) >= SHARE * len(timed) else ""
    return PastTheEnd(len(outside) + lost, len(timed) + lost, unit, f"{example} to {first.end:.10g}")


def _unit(outside: pd.DataFrame) -> str:
    """Return the unit in which labels that are past the end lie in their videos, and not all at the start."""
    for name, number in UNITS.items():
        seconds = outside.end / (number or outside.source_fps)
        fits = (seconds <= 1.05 * outside.duration_seconds + 1).mean() >= FITS
        if fits and (seconds / outside.duration_seconds).median() > START:
            return name
    return ""
