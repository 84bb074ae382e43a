"""What every reader of another data set's annotations gives, and what it may have to be told."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np


class Found(NamedTuple):
    """A label of a video as a source tells it."""

    place: str  # file, and line or entry
    video: str  # its id; of PATHS the path of its file
    split: str  # "" where the source does not say
    label: str = ""  # the class, by name or number; "" for a video without a label
    start: float = np.nan  # seconds; NaN: the whole video
    end: float = np.nan
    name: str = ""  # of a class that is known by number, where the source says it
    segment: str = ""  # its id, where the source has one


@dataclass(frozen=True)
class Told:
    """What a source does not say."""

    unit: Literal["seconds", "frames"] | None = None  # of charades-json
    fps: float | None = None  # frames a second
    label: Literal["verb", "noun", "action"] = "action"  # of epic and assembly101
    offset: float = 0.0  # of ava: the seconds at which the video files begin
