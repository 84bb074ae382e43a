"""Annotations in the format of Charades."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.data.annotations import Annotations, judge
from pipeline.data.strict_csv import SPLITS, parse_seconds, parse_video_id, read_classes, read_rows, refuse

CHARADES_COLUMNS = (
    *("id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions"),
    *("actions", "length"),
)
EGO_COLUMNS = ("egocentric", "charades_video")  # of Charades-Ego, version 1; not read


def read_charades(train_csv: Path, test_csv: Path, classes_txt: Path) -> Annotations:
    """Read the files of Charades or Charades-Ego: videos and actions of both splits, train first.

    An empty length is unknown: then no action is cut at the end.

    Raises:
        AnnotationError: anything that is not exactly the format.
    """
    classes = read_classes(classes_txt, "c{:03d} ")
    videos, actions = [], []
    for split, path in zip(SPLITS, (train_csv, test_csv), strict=True):
        for line, row in read_rows(path, CHARADES_COLUMNS, EGO_COLUMNS):
            length = parse_seconds(path, line, "length", row["length"]) if row["length"] else np.nan
            videos.append((path, line, parse_video_id(path, line, "id", row["id"]), split, length))
            for action in filter(None, row["actions"].split(";")):
                match action.split(" "):
                    case code, start, end if re.fullmatch("c[0-9]{3}", code) and int(code[1:]) < len(classes):
                        times = (parse_seconds(path, line, "actions", start), parse_seconds(path, line, "actions", end))
                        actions.append((row["id"], int(code[1:]), *times))
                    case _:
                        refuse(path, line, "actions", action, f"'cNNN start end', cNNN below c{len(classes):03d}")
    return judge(videos, actions, classes)


def charades_row(video_id: str, actions: Iterable[tuple[int, float, float]], length: float, **text: str) -> dict:
    """Make one line of a Charades CSV; columns that are not given stay blank.

    Args:
        actions: (class_index, start, end) of each action, in seconds.
        length: of the video, in seconds.
    """
    listed = ";".join(f"c{index:03d} {start:.2f} {end:.2f}" for index, start, end in actions)
    return {**dict.fromkeys(CHARADES_COLUMNS, ""), **text, "id": video_id, "actions": listed, "length": f"{length:.2f}"}


def write_charades_csv(path: Path, rows: Iterable[dict]) -> None:
    """Write rows of `charades_row` as the official files are: header, quotes where needed, CRLF."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CHARADES_COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
