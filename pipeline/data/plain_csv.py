"""Annotations in the plain format: video_id, split, start, end, label; segments of recordings; files by path."""

import csv
import io
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.data.annotations import Annotations, judge
from pipeline.data.segments import Source, is_segment
from pipeline.data.strict_csv import (
    composed,
    csv_bytes,
    parse_seconds,
    parse_split,
    parse_video_id,
    read_classes,
    read_rows,
    refuse,
    seconds_text,
)

PLAIN_COLUMNS = ("video_id", "split", "start", "end", "label")
# Which sample and which file a line is about, and the rate where its start and end are frames. The score of a timeline
# that `predict` wrote and a person corrected is not read.
SCORE = ("score",)
OPTIONAL = ("segment_id", "path", "fps", *SCORE)
TIMES = ("start", "end")
RATE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,20})?(/[1-9][0-9]{0,5})?")


def read_plain(table_csv: Path, classes_txt: Path) -> Annotations:
    """Read a CSV with the header `video_id,split,start,end,label`, and perhaps OPTIONAL columns: one line an action.

    `label` is one of the lines of classes_txt. A label without start and end holds for the whole video; a line
    without label, start and end is a video without actions. `split` is any name. What is no UTF-8 is read as
    Windows-1252, for the class list says whether a label is right.

    With a `segment_id`, the line is about a sample of its own, the part of the video from start to end; the label holds
    for all of it. Samples of a video come together, by their starts. `path` is that of the video's file. With `fps`,
    start and end are numbers of frames, from 0, at this rate.

    Raises:
        AnnotationError: anything that is not exactly the format.
    """
    classes = read_classes(classes_txt)
    indices = {composed(name): index for index, name in enumerate(classes)}
    splits, places, actions, seen, bare = {}, {}, [], set(), set()
    sources, paths = {}, {}
    for line, row in read_rows(table_csv, PLAIN_COLUMNS, OPTIONAL, TIMES, ansi=True):
        row.pop(*SCORE, None)
        source = _source(table_csv, line, row, paths)
        video_id = row.get("segment_id") or source.video_id
        if sources.setdefault(video_id, source) != source:
            first = f"video, start and end as in line {places[video_id]}, which has the same id"
            refuse(table_csv, line, "segment_id", row.get("segment_id", ""), first)
        parse_split(table_csv, line, row["split"])
        if splits.setdefault(video_id, row["split"]) != row["split"]:
            refuse(table_csv, line, "split", row["split"], f"{splits[video_id]}, as in an earlier line of {video_id}")
        if tuple(row.values()) in seen:
            refuse(table_csv, line, "video_id", video_id, "no line twice")
        if video_id in bare or (not row["label"] and video_id in places):
            refuse(table_csv, line, "label", row["label"], f"{video_id} either with labels or with one empty label")
        seen.add(tuple(row.values()))
        places.setdefault(video_id, line)
        if not row["label"]:
            bare.add(video_id)
            if source.start is None and (row["start"] or row["end"]):
                refuse(table_csv, line, "label", "", "a label, or neither start nor end")
        elif composed(row["label"]) not in indices:
            hint = "" if row["label"].isascii() else "; or is it an encoding other than UTF-8?"
            refuse(table_csv, line, "label", row["label"], f"one of the {len(classes)} lines of {classes_txt}{hint}")
        elif source.start is None and (row["start"] or row["end"]):
            actions.append((video_id, indices[composed(row["label"])], *_times(table_csv, line, row), line))
        else:
            actions.append((video_id, indices[composed(row["label"])], 0.0, np.inf, line))
    if any(one.start is not None for one in sources.values()):
        recordings = {name: place for place, name in enumerate(dict.fromkeys(one[:2] for one in sources.values()))}
        order = sorted(sources.items(), key=lambda one: (recordings[one[1][:2]], one[1].start or 0.0))
        places = {video_id: places[video_id] for video_id, _ in order}
    videos = [(table_csv, line, video_id, splits[video_id], np.nan) for video_id, line in places.items()]
    sources = {one: source for one, source in sources.items() if source != Source(one)}
    return replace(judge(videos, actions, classes), sources=sources)


def _source(path: Path, line: int, row: dict[str, str], paths: dict[str, tuple[str, int]]) -> Source:
    """Return what file a line is about, and which part of it where it has a segment_id.

    Args:
        paths: of earlier lines, by video_id, and the line.
    """
    video_id = parse_video_id(path, line, "video_id", row["video_id"])
    file, first = paths.setdefault(video_id, (row.get("path", ""), line))
    if row.get("path", "") != file:
        refuse(path, line, "path", row["path"], f"{file or 'none'}, as in line {first} of {video_id}")
    strange = is_segment(file) or "\\" in file or re.match("[A-Za-z]:", file) or not file.isprintable()
    if strange or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or file != file.strip():
        refuse(path, line, "path", file, "a path from data.videos, such as P01/P01_01.mp4, without '..'")
    if not row.get("segment_id"):
        return Source(video_id, file)
    parse_video_id(path, line, "segment_id", row["segment_id"])
    start, end = _times(path, line, row)
    if start >= end:
        refuse(path, line, "start", row["start"], f"less than the end of the segment, {row['end']}")
    return Source(video_id, file, start, end)


def _times(path: Path, line: int, row: dict[str, str]) -> tuple[float, float]:
    """Return start and end of a line, in seconds."""
    if not row.get("fps"):
        start, end = (parse_seconds(path, line, name, row[name]) for name in TIMES)
        return start, end
    above, _, below = row["fps"].partition("/")
    rate = Fraction(above) / int(below or 1) if RATE.fullmatch(row["fps"]) else 0
    if not 0.001 <= rate <= 1000:
        refuse(path, line, "fps", row["fps"], "frames a second, such as 30, 29.97 or 30000/1001")
    for name in TIMES:
        if not re.fullmatch("[0-9]{1,9}", row[name]):
            refuse(path, line, name, row[name], "the number of a frame, from 0, for the line has fps")
    # upwards to a microsecond, so that it is this frame which is on screen then, and not the one before
    start, end = (math.ceil(int(row[name]) / rate * 10**6) / 10**6 for name in TIMES)
    return start, end


def labels_csv(annotations: Annotations) -> bytes:
    """Write all labels in our plain format. Impossible times become 1, 0, which reads back as impossible."""
    found = {video_id: {} for video_id in annotations.videos["video_id"]}  # the inner keys are an ordered set
    for video_id, index, start, end in annotations.actions.itertuples(index=False, name=None):
        times = map(seconds_text, (start, end))
        times = ("1", "0") if np.isnan(start) else ("", "") if end == np.inf else times
        found[video_id][*times, annotations.classes[index]] = None
    videos = annotations.videos[["video_id", "split"]].itertuples(index=False, name=None)
    return csv_bytes(
        PLAIN_COLUMNS, [[*video, *label] for video in videos for label in found[video[0]] or [("", "", "")]]
    )


def sources_csv(annotations: Annotations) -> bytes:
    """Write labels as `labels_csv` does, with the columns that say where segments, and files with a path, are."""
    rows = []
    for row in list(csv.reader(io.StringIO(labels_csv(annotations).decode(), newline="")))[1:]:
        source = annotations.source(row[0])
        times = row[2:4] if source.start is None else [*map(seconds_text, (source.start, source.end))]
        rows.append([source.video_id, row[1], *times, row[4], row[0] * (source.start is not None), source.path])
    return csv_bytes((*PLAIN_COLUMNS, *OPTIONAL[:2]), rows)
