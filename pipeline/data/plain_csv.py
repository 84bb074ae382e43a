"""Annotations in the plain format: video_id, split, start, end, label."""

from pathlib import Path

import numpy as np

from pipeline.data.annotations import Annotations, judge
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
TIMES = ("start", "end")
SCORE = ("score",)  # of a timeline that `predict` wrote and a person corrected; not read


def read_plain(table_csv: Path, classes_txt: Path) -> Annotations:
    """Read a CSV with the header `video_id,split,start,end,label`: one line an action.

    `label` is one of the lines of classes_txt. A label without start and end holds for the whole video; a line
    without label, start and end is a video without actions. `split` is any name. A column `score` is not read. What
    is no UTF-8 is read as Windows-1252, for the class list says whether a label is right.

    Raises:
        AnnotationError: anything that is not exactly the format.
    """
    classes = read_classes(classes_txt)
    indices = {composed(name): index for index, name in enumerate(classes)}
    splits, places, actions, seen, bare = {}, {}, [], set(), set()
    for line, row in read_rows(table_csv, PLAIN_COLUMNS, SCORE, TIMES, ansi=True):
        row.pop(*SCORE, None)
        video_id = parse_video_id(table_csv, line, "video_id", row["video_id"])
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
            if row["start"] or row["end"]:
                refuse(table_csv, line, "label", "", "a label, or neither start nor end")
        elif composed(row["label"]) not in indices:
            hint = "" if row["label"].isascii() else "; or is it an encoding other than UTF-8?"
            refuse(table_csv, line, "label", row["label"], f"one of the {len(classes)} lines of {classes_txt}{hint}")
        elif row["start"] or row["end"]:
            times = (parse_seconds(table_csv, line, name, row[name]) for name in TIMES)
            actions.append((video_id, indices[composed(row["label"])], *times, line))
        else:
            actions.append((video_id, indices[composed(row["label"])], 0.0, np.inf, line))
    videos = [(table_csv, line, video_id, splits[video_id], np.nan) for video_id, line in places.items()]
    return judge(videos, actions, classes)


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
