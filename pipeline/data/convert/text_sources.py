"""Readers of lists, tables and folders: mmaction2's, UCF101's, EPIC's, Assembly101's, Kinetics', AVA's."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.data.convert.found import Found, Told
from pipeline.data.strict_csv import parse_seconds, read_rows, read_text, refuse
from pipeline.data.video.find import EXTENSIONS
from pipeline.errors import AnnotationError, StageError

VIDEO = rf"(.+\.(?:{'|'.join(EXTENSIONS)}))"


def path_label(path: Path, split: str, told: Told) -> Iterator[Found]:
    """mmaction2's and VideoMAE's lists: a line the path of a video and its classes, by number or one by name."""
    for number, line in _lines(path):
        match = re.fullmatch(rf'"?{VIDEO}"?[ ,\t]+(\S.*)', line, re.IGNORECASE)
        if not match:
            expected = f"the path of a video (.{', .'.join(EXTENSIONS)}), a blank and its class"
            refuse(path, number, "all", line, f"{expected}; lists of folders of frames are not read")
        numbers = re.fullmatch("[0-9]{1,7}([ ,\t]+[0-9]{1,7})*", match[2])
        labels = [str(int(one)) for one in re.findall("[0-9]+", match[2])] if numbers else [match[2].strip('"')]
        for label in labels:
            yield Found(f"{path}, line {number}", match[1].replace("\\", "/"), split, label)


def folders(path: Path, split: str, told: Told) -> Iterator[Found]:
    """UCF101, Kinetics as shipped: CLASS/VIDEO or SPLIT/CLASS/VIDEO, in a folder or a list such as trainlist01.txt."""
    if path.is_dir():
        files = sorted(one.relative_to(path) for one in path.rglob("*") if one.suffix[1:].lower() in EXTENSIONS)
        places = [(str(path / one), one) for one in files if one.name[0] != "."]
        if not places:
            raise StageError(f"{path}: no video (.{', .'.join(EXTENSIONS)}) in it or in its folders")
    else:
        lines = [
            (number, re.fullmatch(rf"{VIDEO}( +[0-9]+)?", line, re.IGNORECASE), line) for number, line in _lines(path)
        ]
        for number, match, line in lines:
            if not match:
                refuse(path, number, "all", line, "CLASS/VIDEO, with or without a number behind")
        places = [(f"{path}, line {number}", Path(match[1].replace("\\", "/"))) for number, match, _ in lines]
    for place, video in places:
        if not 2 <= len(video.parts) <= 3:
            raise AnnotationError(f"{place}: {video}; expected CLASS/VIDEO or SPLIT/CLASS/VIDEO below {path}")
        own = split or (video.parts[0] if len(video.parts) == 3 else "")
        yield Found(place, str(video), own, video.parts[-2])


def epic(path: Path, split: str, told: Told) -> Iterator[Found]:
    """EPIC-KITCHENS: video_id, start_timestamp, stop_timestamp, verb, verb_class, noun, noun_class, and others."""
    heads = ("verb", "noun") if told.label == "action" else (told.label,)
    times = ("start_timestamp", "stop_timestamp")
    columns = ("video_id", *times, *heads, *(f"{head}_class" for head in heads))
    for line, row in read_rows(path, columns, None, times):
        start, end = (parse_seconds(path, line, name, row[name]) for name in times)
        for head in heads:
            if not re.fullmatch("[0-9]{1,6}", row[f"{head}_class"]):
                refuse(path, line, f"{head}_class", row[f"{head}_class"], "the number of a class")
        number, name = (
            sep.join(row[one] for one in names) for sep, names in ((",", columns[-len(heads) :]), (" ", heads))
        )
        yield Found(
            f"{path}, line {line}", row["video_id"], split, number, start, end, name, row.get("narration_id", "")
        )


def assembly101(path: Path, split: str, told: Told) -> Iterator[Found]:
    """Assembly101's fine-grained annotations: video, start_frame, end_frame at 30 a second, action_cls, and others."""
    label = "action_cls" if told.label == "action" else f"{told.label}_cls"
    for line, row in read_rows(path, ("video", "start_frame", "end_frame", label), None):
        start, end = (
            parse_seconds(path, line, name, row[name]) / (told.fps or 30) for name in ("start_frame", "end_frame")
        )
        yield Found(f"{path}, line {line}", row["video"], split, row[label], start, end)


def kinetics(path: Path, split: str, told: Told) -> Iterator[Found]:
    """Kinetics' lists: label, youtube_id, time_start, time_end, split; of the clips `<id>_<start>_<end>.mp4`."""
    for line, row in read_rows(path, ("youtube_id", "time_start", "time_end", "split"), None):
        times = [int(parse_seconds(path, line, name, row[name])) for name in ("time_start", "time_end")]
        video = "{}_{:06d}_{:06d}".format(row["youtube_id"], *times)
        yield Found(f"{path}, line {line}", video, split or row["split"], row.get("label", ""))


def ava(path: Path, split: str, told: Told) -> Iterator[Found]:
    """AVA: video_id, second, box, action_id, person_id, without a header. A label holds half a second before and after.

    What several persons do, and what goes on from second to second, becomes one label.
    """
    seconds: dict[tuple[str, str], dict[float, str]] = {}
    for number, line in _lines(path):
        cells = line.split(",")
        if len(cells) not in (7, 8):
            refuse(
                path,
                number,
                "all",
                line,
                f"8 columns (video_id,second,4 of the box,action_id,person_id), got {len(cells)}",
            )
        if not re.fullmatch("[0-9]{0,4}", cells[6]):
            refuse(path, number, "action_id", cells[6], "the number of a class, or nothing")
        second = parse_seconds(path, number, "second", cells[1])
        seconds.setdefault((cells[0], cells[6]), {}).setdefault(second, f"{path}, line {number}")
    for (video, label), places in seconds.items():
        if not label:
            yield Found(next(iter(places.values())), video, split)
            continue
        times = np.array(sorted(places))
        for run in np.split(times, 1 + np.flatnonzero(np.diff(times) > 1)):
            start, end = run[0] - 0.5 - told.offset, run[-1] + 0.5 - told.offset
            yield Found(places[run[0]], video, split, label, float(start), float(end))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbers and texts of the lines that are not empty."""
    for number, line in enumerate(re.split("\r\n|\n|\r", read_text(path)), start=1):
        if line.strip():
            yield number, line.strip()
