"""Readers of JSON: ActivityNet's, Charades' of MS-TCT, WLASL's. A key that comes twice is refused."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Interval, Len
from pydantic import TypeAdapter, ValidationError

from pipeline.data.convert.found import Found, Told
from pipeline.data.strict_csv import read_text, refuse
from pipeline.errors import AnnotationError, StageError

Time = Annotated[float, Interval(ge=-1e7, le=1e7)]
Name = Annotated[str, Len(1, 1000)]
Number = Annotated[int, Interval(ge=0, le=10**8)]


@dataclass(frozen=True)
class Segment:
    label: Name
    segment: tuple[Time, Time]


@dataclass(frozen=True)
class VideoEntry:
    subset: str = ""
    annotations: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Database:
    database: dict[Name, VideoEntry]


@dataclass(frozen=True)
class Charades:
    subset: Name
    actions: tuple[tuple[Number, Time, Time], ...]


@dataclass(frozen=True)
class Instance:
    video_id: Name
    split: Name
    frame_start: Number = 1
    frame_end: Annotated[int, Interval(ge=-1, le=10**8)] = -1
    fps: Annotated[float, Interval(gt=0, le=1000)] = 25.0


@dataclass(frozen=True)
class Gloss:
    gloss: Name
    instances: tuple[Instance, ...]


def _read_json(path: Path, kind: object) -> object:
    """Read JSON of a kind; refuse a key that comes twice, for one of the two would be lost."""
    try:
        values = json.loads(read_text(path), object_pairs_hook=partial(_unique, path))
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where, value = ".".join(map(str, first["loc"])), repr(first["input"])[:200]
        raise AnnotationError(f"{path}, {where or 'the whole'}: {value}; expected otherwise: {first['msg']}") from None
    except json.JSONDecodeError as error:
        refuse(path, error.lineno, "all", error.msg, "JSON")
    except (RecursionError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{path}: too deep, or too long a number: {str(error)[:200]}; expected JSON") from None


def _unique(path: Path, pairs: list[tuple]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise AnnotationError(f"{path}, {twice!r}: comes twice in one object; expected it once")
    return found


def activitynet(path: Path, split: str, told: Told) -> Iterator[Found]:
    """ActivityNet, THUMOS14, FineAction: `database`, by id `subset` and `annotations` of `label` and `segment`."""
    for video, entry in _read_json(path, Database).database.items():
        place, own = f"{path}, {video}", split or entry.subset
        for one in entry.annotations:
            yield Found(place, video, own, one.label, *one.segment)
        if not entry.annotations:
            yield Found(place, video, own)


def charades_json(path: Path, split: str, told: Told) -> Iterator[Found]:
    """MS-TCT's Charades, Smarthome Untrimmed, MultiTHUMOS: by id `subset` and `actions` of class, start and end."""
    if told.unit is None or (told.unit == "frames" and not told.fps):
        expected = "--unit seconds (Charades, MultiTHUMOS) or --unit frames --fps N (Smarthome)"
        raise StageError(f"{path} does not say what its times are: {expected}")
    rate = told.fps if told.unit == "frames" else 1
    for video, entry in _read_json(path, dict[Name, Charades]).items():
        place, own = f"{path}, {video}", split or entry.subset
        for number, start, end in entry.actions:
            yield Found(place, video, own, str(number), start / rate, end / rate)
        if not entry.actions:
            yield Found(place, video, own)


def wlasl(path: Path, split: str, told: Told) -> Iterator[Found]:
    """WLASL: a list of `gloss` and `instances`, which have frames from 1 on, the last -1 where it is the video's."""
    for entry in _read_json(path, list[Gloss]):
        for one in entry.instances:
            fps = told.fps or one.fps
            times = ((one.frame_start - 1) / fps, one.frame_end / fps) if one.frame_end > 0 else (np.nan, np.nan)
            yield Found(f"{path}, {one.video_id}", one.video_id, split or one.split, entry.gloss, *times)
