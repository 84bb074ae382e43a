"""The tables of a predictions folder, made from the stored windows of its videos; no network is needed."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from cache.sealed import write_record
from pipeline.data.plain_csv import PLAIN_COLUMNS, SCORE
from pipeline.data.strict_csv import csv_bytes, read_rows, refuse
from pipeline.errors import StageError
from pipeline.run.outcome import Outcome
from pipeline.run.predictions import (
    BOX,
    RECORD,
    VideoTable,
    is_predictions,
    read_facts,
    read_timeline,
    read_video,
    videos_in,
)
from pipeline.run.timeline import DEFAULT_RULE, Rule, segments

DEFAULT = 0.5  # threshold of a class where none is known
FORMATS = {"csv": None, "activitynet": "activitynet.json", "jsonl": "predictions.jsonl"}
COLUMNS = {
    "videos.csv": ("video_id", "path", "label", "score", "threshold", "above"),
    "timeline.csv": (*PLAIN_COLUMNS, *SCORE),
    "boxes.csv": ("video_id", "start", "end", *BOX),
    "failed.csv": ("path", "reason", "detail"),
}


@dataclass(frozen=True)
class Wanted:
    """What the tables show."""

    thresholds: pd.Series  # by class, in [0, 1]
    thresholds_from: str  # in words
    rule: Rule = DEFAULT_RULE
    top_k: int = 5  # labels of a video, the highest; 0 for all
    format: str = "csv"


@dataclass(frozen=True)
class Report:
    """What the tables show, as the options of commands say it."""

    threshold: str = "stored"  # or a number, or a CSV; see `thresholds`
    rule: Rule = DEFAULT_RULE
    top_k: int = 5
    format: str = "csv"


def wanted(report: Report, classes: list[str], stored: pd.Series | None, one_label: bool) -> Wanted:
    """Return what the tables show; see `thresholds` for the errors.

    Args:
        one_label: the classes exclude each other.
    """
    values, whence = thresholds(report.threshold, classes, stored, one_label)
    return Wanted(values, whence, replace(report.rule, one_label=one_label), report.top_k, report.format)


def rewrite(out: Path, report: Report) -> Outcome:
    """Make the tables of a predictions folder anew from its windows, with other thresholds or rules.

    Raises:
        StageError: the folder has no finished predictions.
    """
    if not is_predictions(out):
        raise StageError(f"{out}: no predictions; `predict` makes a folder of them, with {RECORD} at the end")
    facts = read_facts(out)
    stored = facts.get("thresholds_stored")
    stored, one_label = stored and pd.Series(stored)[facts["classes"]], facts["timeline"]["one_label"]
    shown = wanted(report, facts["classes"], stored, one_label)
    there = dict.fromkeys(videos_in(out))
    ids = list(dict.fromkeys([one for one in read_timeline(out).video_id if one in there]) | there)  # in its order
    write_tables(out, ids, facts, shown, read_failed(out))
    return Outcome(out / "timeline.csv", f"{len(ids)} videos; thresholds: {shown.thresholds_from}")


def read_failed(out: Path) -> list[tuple[str, str, str]]:
    """Return path, reason and detail of the videos that failed before; [] where there is no table of them."""
    if not (out / "failed.csv").is_file():
        return []
    return [tuple(row.values()) for _, row in read_rows(out / "failed.csv", COLUMNS["failed.csv"])]


def read_thresholds(path: Path, classes: Iterable[str]) -> pd.Series:
    """Read a CSV with the header `label,threshold`, a line a class; classes that it leaves out have DEFAULT.

    Raises:
        AnnotationError: a line is no class, comes twice, or has no number from 0 to 1; names the line.
    """
    found, classes = {}, list(classes)
    for line, row in read_rows(path, ("label", "threshold")):
        label, text = row["label"], row["threshold"]
        if label not in classes or label in found:
            refuse(path, line, "label", label, f"each of the {len(classes)} classes once, such as {classes[0]!r}")
        try:
            found[label] = float(text)
        except ValueError:
            found[label] = float("nan")
        if not 0 <= found[label] <= 1:
            refuse(path, line, "threshold", text, "a number from 0 to 1")
    return pd.Series([found.get(name, DEFAULT) for name in classes], index=classes)


def thresholds(
    text: str, classes: list[str], stored: pd.Series | None, one_label: bool = False
) -> tuple[pd.Series, str]:
    """Return the thresholds that `--threshold` asks for: "stored", a number for all classes, or a CSV; and whence."""
    if text == "stored":
        if stored is None and one_label:
            return pd.Series(0.0, classes), "none are stored with the model: the highest class counts"
        if stored is None:
            return pd.Series(DEFAULT, classes), f"{DEFAULT} for every class: none are stored with the model"
        return stored, "stored with the model"
    if Path(text).suffix == ".csv":
        return read_thresholds(Path(text), classes), text
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise StageError(f'--threshold {text}: expected "stored", a number from 0 to 1, or a .csv with label,threshold')
    return pd.Series(value, classes), f"{value:g} for every class"


def write_tables(
    out: Path, video_ids: Iterable[str], facts: dict, wanted: Wanted, failed: Iterable[tuple[str, str, str]]
) -> None:
    """Write all tables of the videos, and their record, which comes last.

    Args:
        facts: what the record says of weights and protocol.
        failed: path, reason and detail of the videos that could not be read.
    """
    rows: dict[str, list[tuple]] = {name: [] for name in COLUMNS} | {"failed.csv": list(failed)}
    segmented: dict[str, pd.DataFrame] = {}
    for video_id in video_ids:
        found = read_video(out, video_id)
        segmented[video_id] = timeline = segments(found.windows, wanted.thresholds, wanted.rule)
        rows["videos.csv"] += [(video_id, found.path, *one) for one in labels(found, wanted)]
        times = [(_seconds(one.start), _seconds(one.end), one.label, float(one.score)) for one in timeline.itertuples()]
        rows["timeline.csv"] += [(video_id, "train", *one) for one in times or [("", "", "", "")]]
        rows["boxes.csv"] += [
            (video_id, _seconds(start), _seconds(end), *map(int, box))
            for start, end, *box in found.boxes.itertuples(index=False)
        ]
    files = {name: csv_bytes(columns, rows[name]) for name, columns in COLUMNS.items()}
    if name := FORMATS[wanted.format]:
        files[name] = _activitynet(segmented) if wanted.format == "activitynet" else _jsonl(rows, segmented)
    facts = facts | {
        **{"thresholds": dict(wanted.thresholds.astype(float)), "thresholds_from": wanted.thresholds_from},
        **{"timeline": asdict(wanted.rule), "videos": len(segmented), "failed": len(rows["failed.csv"])},
        **{"top_k": wanted.top_k, "format": wanted.format},
    }
    write_record(out / RECORD, facts, files)
    for other in set(filter(None, FORMATS.values())) - files.keys():  # of an earlier call, with other thresholds
        (out / other).unlink(missing_ok=True)


def labels(found: VideoTable, wanted: Wanted) -> Iterator[tuple]:
    """Yield the highest labels of a video: label, score, threshold, whether the score reaches it."""
    highest = found.scores.sort_values(ascending=False, kind="stable")
    for place, (label, score) in enumerate(highest.iloc[: wanted.top_k or None].items()):
        threshold = float(wanted.thresholds[label])
        yield label, float(score), threshold, bool(score >= threshold and not (wanted.rule.one_label and place))


def _seconds(value: float) -> str:
    """Write seconds to a millisecond, as annotations have them."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _annotations(timeline: pd.DataFrame) -> list[dict]:
    return [
        {"label": one.label, "score": float(one.score), "segment": [round(one.start, 3), round(one.end, 3)]}
        for one in timeline.itertuples()
    ]


def _activitynet(segmented: dict[str, pd.DataFrame]) -> bytes:
    """Return the timelines in the submission format of ActivityNet's detection task."""
    results = {video_id: _annotations(timeline) for video_id, timeline in segmented.items()}
    content = {"version": "VERSION 1.3", "results": results, "external_data": {"used": False, "details": ""}}
    return (json.dumps(content, indent=1) + "\n").encode()


def _jsonl(rows: dict[str, list[tuple]], segmented: dict[str, pd.DataFrame]) -> bytes:
    """Return an object a video and line: video_id, path, labels, timeline."""
    videos: dict[str, dict] = {}
    for video_id, path, *label in rows["videos.csv"]:
        named = dict(zip(COLUMNS["videos.csv"][2:], label, strict=True))
        videos.setdefault(video_id, {"video_id": video_id, "path": path, "labels": []})["labels"].append(named)
    lines = [one | {"timeline": _annotations(segmented[video_id])} for video_id, one in videos.items()]
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
