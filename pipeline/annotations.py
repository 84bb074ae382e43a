"""Annotations: Charades CSV and a plain CSV, read strictly into one table of videos and one of actions.

Everything is text until it is proven to be a number: ids such as 07E49, 150E6, 00607, NA and null stay as they are.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from pipeline.video_id import PLAIN_ID, is_plain_id

CHARADES_COLUMNS = (
    *("id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions"),
    *("actions", "length"),
)
PLAIN_COLUMNS = ("video_id", "split", "start", "end", "label")
SPLITS = ("train", "test")
SECONDS = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?")
MAX_BYTES = 2**28


class AnnotationError(ValueError):
    """A table that is refused; the message names file, line, column, value and what was expected."""


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

    @cached_property
    def _by_video(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """video_id -> class_index, start, end of its actions."""
        rows = {video_id: [] for video_id in self.videos["video_id"]}
        columns = [self.actions[name].to_numpy() for name in ("class_index", "start", "end")]
        for row, video_id in enumerate(self.actions["video_id"]):
            rows[video_id].append(row)
        return {video_id: tuple(column[chosen] for column in columns) for video_id, chosen in rows.items()}


def read_charades(train_csv: Path, test_csv: Path, classes_txt: Path) -> Annotations:
    """Read the Charades files: videos and actions of both splits, train first.

    Actions that end after the video's length are cut there.

    Raises:
        AnnotationError: anything that is not exactly the format.
    """
    lines = _class_lines(classes_txt)
    for index, line in enumerate(lines):
        if not line.startswith(f"c{index:03d} "):
            _refuse(classes_txt, index + 1, "class", line, f"c{index:03d} and a name")
    classes = [line[5:] for line in lines]
    videos, actions = [], []
    for split, path in zip(SPLITS, (train_csv, test_csv), strict=True):
        for line, row in _rows(path, CHARADES_COLUMNS):
            length = _seconds(path, line, "length", row["length"])
            videos.append((path, line, _video_id(path, line, "id", row["id"]), split, length))
            for action in filter(None, row["actions"].split(";")):
                match action.split(" "):
                    case code, start, end if re.fullmatch("c[0-9]{3}", code) and int(code[1:]) < len(classes):
                        times = (_seconds(path, line, "actions", start), _seconds(path, line, "actions", end))
                        actions.append((row["id"], int(code[1:]), *times))
                    case _:
                        _refuse(path, line, "actions", action, f"'cNNN start end', cNNN below c{len(classes):03d}")
    return _annotations(videos, actions, classes)


def read_plain(table_csv: Path, classes_txt: Path) -> Annotations:
    """Read a CSV with the header `video_id,split,start,end,label`: one line an action.

    `label` is one of the lines of classes_txt. A label without start and end holds for the whole video; a line
    without label, start and end is a video without actions.

    Raises:
        AnnotationError: anything that is not exactly the format.
    """
    classes = _class_lines(classes_txt)
    indices = {name: index for index, name in enumerate(classes)}
    splits, places, actions, seen, bare = {}, {}, [], set(), set()
    for line, row in _rows(table_csv, PLAIN_COLUMNS):
        video_id = _video_id(table_csv, line, "video_id", row["video_id"])
        if row["split"] not in SPLITS:
            _refuse(table_csv, line, "split", row["split"], f"one of {', '.join(SPLITS)}")
        if splits.setdefault(video_id, row["split"]) != row["split"]:
            _refuse(table_csv, line, "split", row["split"], f"{splits[video_id]}, as in an earlier line of {video_id}")
        if tuple(row.values()) in seen:
            _refuse(table_csv, line, "video_id", video_id, "no line twice")
        if video_id in bare or (not row["label"] and video_id in places):
            _refuse(table_csv, line, "label", row["label"], f"{video_id} either with labels or with one empty label")
        seen.add(tuple(row.values()))
        places.setdefault(video_id, line)
        if not row["label"]:
            bare.add(video_id)
            if row["start"] or row["end"]:
                _refuse(table_csv, line, "label", "", "a label, or neither start nor end")
        elif row["label"] not in indices:
            _refuse(table_csv, line, "label", row["label"], f"one of the {len(classes)} lines of {classes_txt}")
        elif row["start"] or row["end"]:
            times = (_seconds(table_csv, line, name, row[name]) for name in ("start", "end"))
            actions.append((video_id, indices[row["label"]], *times))
        else:
            actions.append((video_id, indices[row["label"]], 0.0, np.inf))
    videos = [(table_csv, line, video_id, splits[video_id], np.nan) for video_id, line in places.items()]
    return _annotations(videos, actions, classes)


def charades_row(video_id: str, actions: Iterable[tuple[int, float, float]], length: float, **text: str) -> dict:
    """One line of a Charades CSV.

    Args:
        video_id: the id.
        actions: (class_index, start, end) of each action, in seconds.
        length: of the video, in seconds.
        text: any of the other columns; blank when not given.
    """
    listed = ";".join(f"c{index:03d} {start:.2f} {end:.2f}" for index, start, end in actions)
    return {**dict.fromkeys(CHARADES_COLUMNS, ""), **text, "id": video_id, "actions": listed, "length": f"{length:.2f}"}


def write_charades_csv(path: Path, rows: Iterable[dict]) -> None:
    """Write rows of `charades_row` as the official files are: header, quotes where needed, CRLF."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CHARADES_COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)


def _annotations(videos: list[tuple], actions: list[tuple], classes: list[str]) -> Annotations:
    """Judge ids and times of all files together. `videos` are (file, line, video_id, split, length_seconds)."""
    seen = {}
    for path, line, video_id, _, _ in videos:
        # Two ids that differ in case only are one file on some machines.
        if video_id.lower() in seen:
            _refuse(path, line, "video id", video_id, f"no id twice; the first is in {seen[video_id.lower()]}")
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


def _rows(path: Path, columns: tuple[str, ...]) -> Iterable[tuple[int, dict[str, str]]]:
    """(line number, column -> text) of every line below the header, which must be exactly `columns`."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(header) != columns:
            _refuse(path, 1, "header", ",".join(header), ",".join(columns))
        for row in reader:
            if len(row) != len(columns):
                _refuse(path, reader.line_num, "all", ",".join(row), f"{len(columns)} columns, got {len(row)}")
            yield reader.line_num, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        _refuse(path, reader.line_num, "all", str(error), "well-formed CSV")


def _class_lines(path: Path) -> list[str]:
    lines = _text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line or line != line.strip() or line in lines[: number - 1]:
            _refuse(path, number, "class", line, "a name without blanks around it, no name twice")
    if not lines:
        _refuse(path, 1, "class", "", "one class a line")
    return lines


def _text(path: Path) -> str:
    try:
        if (size := Path(path).stat().st_size) > MAX_BYTES or not Path(path).is_file():
            raise AnnotationError(f"{path}: {size} bytes; expected a regular file of at most {MAX_BYTES}")
        content = Path(path).read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: {error.strerror}") from error
    if b"\0" in content:
        _refuse(path, 1 + content[: content.index(b"\0")].count(b"\n"), "all", "a NUL byte", "text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(path, 1 + content[: error.start].count(b"\n"), "all", content[error.start : error.end], "UTF-8")


def _video_id(path: Path, line: int, column: str, text: str) -> str:
    if not is_plain_id(text):
        _refuse(path, line, column, text, PLAIN_ID)
    return text


def _seconds(path: Path, line: int, column: str, text: str) -> float:
    if not SECONDS.fullmatch(text):
        _refuse(path, line, column, text, "seconds such as 12 or 12.34")
    return float(text)


def _refuse(path: Path, line: int, column: str, value: object, expected: str) -> NoReturn:
    raise AnnotationError(f"{path}, line {line}, column {column}: {value!r}; expected {expected}")
