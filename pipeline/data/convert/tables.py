"""From what sources say to labels.csv and classes.txt: ids, splits, classes, and what is left out and why."""

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pipeline.data.convert import json_sources, text_sources
from pipeline.data.convert.found import Found, Told
from pipeline.data.plain_csv import PLAIN_COLUMNS
from pipeline.data.strict_csv import csv_bytes, read_rows, read_text, refuse, seconds_text
from pipeline.data.video.find import PLAIN_ID, is_plain_id
from pipeline.errors import AnnotationError, StageError

READERS = {
    **{"activitynet": json_sources.activitynet, "charades-json": json_sources.charades_json},
    **{"path-label": text_sources.path_label, "folders": text_sources.folders, "epic": text_sources.epic},
    **{"ava": text_sources.ava, "assembly101": text_sources.assembly101, "kinetics": text_sources.kinetics},
    "wlasl": json_sources.wlasl,
}
PATHS = ("path-label", "folders", "assembly101")  # whose videos are known by path
SPLITS = {"training": "train", "testing": "test", "validation": "val", "validate": "val"}  # to the names used here
TEST_SHARE = 0.2  # of the videos of each class, where no source says a split


@dataclass(frozen=True)
class Tables:
    """What was converted.

    Attributes:
        labels: rows of the plain table, where asked for with a segment_id behind.
        classes: names, in the order of their numbers in the source, or else of the alphabet.
        files: where the source names files: id -> path of the video's file.
        notes: what was left out or decided, a sentence each.
        num_left_out: videos that are not in the table.
    """

    labels: list[tuple[str, ...]]
    classes: list[str]
    files: dict[str, str]
    notes: list[str] = field(default_factory=list)
    num_left_out: int = 0


def convert(
    kind: str, sources: list[str], told: Told, names: Path | None = None, prefix: str = "", segments: bool = False
) -> Tables:
    """Read annotation files of another data set.

    Args:
        kind: one of READERS.
        sources: files or folders; "train=FILE" says the split of all that is in it.
        names: a list of classes, see `read_names`.
        prefix: put before every id, as ActivityNet's files have "v_".
        segments: each label with times becomes a sample of its own; the others are left out.
    Raises:
        AnnotationError: names file, line or entry, and what was expected.
        StageError: a source is missing, or does not say what must be known; says how to say it.
    """
    found = [one for source in sources for one in _read(kind, source, told, root_of(sources))]
    if not found:
        raise StageError(f"{', '.join(sources)}: no video in it")
    table = pd.DataFrame(found, columns=Found._fields)
    table["split"] = table.split.str.strip().str.lower().replace(SPLITS)
    if not (right := table.split.map(str.isprintable)).all():
        raise AnnotationError(f"{table.place[~right].iloc[0]}: split {table.split[~right].iloc[0]!r}; expected a name")
    ids = (
        _ids(table.video.unique().tolist())
        if kind in PATHS
        else {one: f"{prefix}{one}" for one in table.video.unique()}
    )
    table["video_id"] = table.video.map(ids)
    _check_ids(table)
    notes: list[str] = []
    known = table.video_id.unique()
    table = _leave_out(table, ~table.video_id.map(is_plain_id), f"labels: their video's id is not {PLAIN_ID}", notes)
    table["split"] = _splits(table, notes)
    for split, rows in table.groupby("split"):
        if (rows.label == "").all():
            table = _leave_out(table, table.split == split, f"videos of {split}: none of them has a label", notes)
    table = _leave_out(table, (table.end < table.start) | (table.end < 0), "labels: they end before their start", notes)
    notes += [f"{(table.start < 0).sum()} labels start before 0: they start at 0"] * bool((table.start < 0).any())
    table["start"] = table.start.clip(lower=0)
    if segments:
        table = _leave_out(table, ~(table.start < table.end), "labels: they have no times, or no length", notes)
        table["segment"] = _segment_ids(table)
    table = table[(table.label != "") | ~table.video_id.isin(table.video_id[table.label != ""])].copy()
    if table.empty:
        raise StageError(f"{', '.join(sources)}: no video is left; {'; '.join(notes)}")
    table["label"], classes = _name_classes(table, read_names(names) if names else {}, notes)
    columns = _row if not segments else lambda row: (*_row(row), row.segment)
    labels = list(dict.fromkeys(columns(row) for row in table.itertuples()))  # an ordered set
    notes += [f"left out {len(table) - len(labels)} labels: the same as another"] * (len(labels) < len(table))
    files = dict(zip(table.video_id, table.video, strict=True)) if kind in PATHS else {}
    return Tables(labels, classes, files, notes, len(known) - table.video_id.nunique())


def _read(kind: str, source: str, told: Told, root: Path) -> list[Found]:
    split, path = _told(source)
    if not path.exists() or (path.is_dir() and kind != "folders"):
        raise StageError(f"{source}: expected a file{' or folder' * (kind == 'folders')}, or SPLIT=FILE; there is none")
    found = list(READERS[kind](path, split, told))
    if path.is_dir():  # of several, too, all paths start in one folder
        found = [one._replace(video=os.path.relpath(path / one.video, root)) for one in found]
    return found


def _told(source: str) -> tuple[str, Path]:
    """Return the split that SPLIT=SOURCE says, or "", and the source."""
    split, told_split, path = source.partition("=")
    return (split, Path(path)) if told_split and not Path(source).exists() else ("", Path(source))


def root_of(sources: list[str]) -> Path:
    """Return where paths start: in the folder of the first list, or where all folders are that are sources."""
    paths = [_told(source)[1] for source in sources]
    found = [os.path.abspath(path) for path in paths if path.is_dir()]
    return Path(os.path.commonpath(found)) if found else paths[0].parent


def _row(row) -> tuple[str, str, str, str, str]:
    times = ("", "") if pd.isna(row.start) else (seconds_text(row.start), seconds_text(row.end))
    return row.video_id, row.split, *times, row.label


def _segment_ids(table: pd.DataFrame) -> pd.Series:
    """Return the id of each segment, the source's or else that of the video and a number, by start and end."""
    number = table.groupby(["video_id", "start", "end"]).ngroup().groupby(table.video_id).rank("dense").astype(int)
    return table.segment.where(table.segment.map(is_plain_id), table.video_id + "_" + number.map("{:04d}".format))


def _leave_out(table: pd.DataFrame, which: pd.Series, why: str, notes: list[str]) -> pd.DataFrame:
    """Return the rows but those; note how many and which is the first."""
    if which.any():
        notes.append(f"left out {which.sum()} {why} (the first: {table.place[which].iloc[0]})")
    return table[~which].copy()


def _ids(paths: list[str]) -> dict[str, str]:
    """Make an id of each path: the name of its file; with that of its folder, or of all, where files have one name."""
    parts = pd.Series(paths).str.replace("\\", "/").str.split("/")
    parts = parts.map(lambda one: [*one[:-1], one[-1].rpartition(".")[0]])
    names = parts.str[-1]
    for longer in (parts.str[-2:].str.join("_"), parts.str.join("_")):
        names = names.where(~names.str.lower().duplicated(keep=False), longer)
    return dict(zip(paths, names.map(_id), strict=True))


def _id(name: str) -> str:
    """Make an id of a name: "_" for a blank, and for what no id has; "v" before what is none without it."""
    letters = "".join(one if is_plain_id(f"a{one}a") and one not in "#% " else "_" for one in name)
    dots = r"\.(?=\.)|\.$"
    # the second, for %XX may make letters of the first too long
    found = [re.sub(dots, "_", letters), re.sub(f"[^A-Za-z0-9._-]|{dots}", "_", name)]
    return next((one for text in found for one in (text, f"v{text}") if is_plain_id(one)), f"v{found[1]}")


def _check_ids(table: pd.DataFrame) -> None:
    """Refuse two videos of one id, and one video in two splits."""
    first = table.drop_duplicates("video")
    same = first[first.video_id.str.lower().duplicated()]
    for row in same.itertuples():
        other = first[first.video_id.str.lower() == row.video_id.lower()].iloc[0]
        raise AnnotationError(f"{row.place}: {row.video} and {other.video} ({other.place}) are both {row.video_id}")
    splits = table.drop_duplicates(["video", "split"])
    for row in splits[splits.video.duplicated()].itertuples():
        other = splits[splits.video == row.video].iloc[0]
        raise AnnotationError(
            f"{row.place}: {row.video} is in {row.split!r}; expected {other.split!r}, as {other.place}"
        )


def _splits(table: pd.DataFrame, notes: list[str]) -> pd.Series:
    """Return the split of each row; where none is said, a fifth of each class's videos, by a hash, is test."""
    if (table.split != "").all():
        return table.split
    videos = table[table.split == ""].drop_duplicates("video_id")
    order = videos.video_id.map(lambda one: hashlib.sha256(one.encode()).hexdigest()).groupby(videos.label).rank()
    counts = videos.groupby("label").video_id.transform("size")
    test = videos.video_id[(order <= (counts * TEST_SHARE).round().clip(lower=1)) & (counts > 1)]
    how = "no split is told (SPLIT=SOURCE tells it)"
    notes.append(f"{how}: {len(test)} of {len(videos)} videos, by a hash of their ids, are test")
    return table.split.where(table.split != "", table.video_id.isin(test).map({True: "test", False: "train"}))


def _name_classes(table: pd.DataFrame, names: dict[str, str], notes: list[str]) -> tuple[pd.Series, list[str]]:
    """Return the name of each row's class, and the class list."""
    labels = table.label.map(lambda text: " ".join(text.split()))
    if names:
        wrong, expected = ~labels.isin({"", *names.keys(), *names.values()}), f"one of the {len(names)} of --names"
    else:
        wrong, expected = ~(labels + table.name).map(str.isprintable), "printable text"
    if wrong.any():
        text = (table.name[wrong].iloc[0] if not names else "") or labels[wrong].iloc[0]
        raise AnnotationError(f"{table.place[wrong].iloc[0]}: class {text!r}; expected {expected}")
    if names:
        return labels.map(lambda text: names.get(text, text)), list(dict.fromkeys(names.values()))
    told = table.name[labels != ""].groupby(labels).agg(lambda texts: " ".join(texts.mode().iloc[0].split()))
    keys = sorted(told.index, key=_order) if all(map(_is_number, told.index)) else sorted(told.index)
    shown, classes = told[told != ""].duplicated(keep=False), {}
    for key in keys:
        classes[key] = (f"{told[key]} ({key})" if shown[key] else told[key]) if told[key] else key
    if any(_is_number(name) for name in classes.values()):
        notes.append("classes are known by number only: --names FILE names them")
    return labels.map(lambda key: classes.get(key, "")), list(classes.values())


def _is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{1,7}(,[0-9]{1,7})*", text) is not None


def _order(key: str) -> list[int]:
    return [int(number) for number in key.split(",")]


def read_names(path: Path) -> dict[str, str]:
    """Read the names of classes, by number as text.

    A class a line, from 0 on, or with a number before it (`c000 name`, `1 name`); EPIC's CSV with id and key; AVA's
    .pbtxt with name and id.
    """
    if path.suffix == ".csv":
        return {row["id"]: row["key"] for _, row in read_rows(path, ("id", "key"), None)}
    text = read_text(path)
    if path.suffix == ".pbtxt":
        entries = re.findall(r'name: *"(.+?)"\s+(?:label_)?id: *([0-9]+)', text)
        return {number: name for name, number in entries} or refuse(path, 1, "all", text[:50], 'name: "..." and id: N')
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    numbered = [re.fullmatch("c?([0-9]+)[ ,]+(.+)", line) for line in lines]
    if all(numbered) and len({match[1] for match in numbered}) == len(lines):
        return {str(int(match[1])): match[2] for match in numbered}
    return {str(number): line for number, line in enumerate(lines)}


def write(tables: Tables, out: Path, root: Path | None = None) -> None:
    """Write labels.csv, and classes.txt beside it.

    Args:
        root: say where the file of each video is, from this folder on.
    Raises:
        StageError: one is there already, for nothing is written over; or a path leads out of root.
    """
    classes = out.with_name("classes.txt")
    for path in (out, classes):
        if path.exists():
            raise StageError(f"{path} is there already; move it away, or use another --out")
    columns, rows = (*PLAIN_COLUMNS, "segment_id")[: len(tables.labels[0])], tables.labels
    if root:
        columns, rows = (*columns, "path"), [(*row, _below(root, tables.files[row[0]])) for row in rows]
    content = csv_bytes(columns, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    classes.write_text("".join(f"{name}\n" for name in tables.classes), encoding="utf-8")


def link_videos(tables: Tables, root: Path, folder: Path) -> tuple[int, bool]:
    """Link each video's file into a folder under its id, as `prepare` looks for it.

    Hard links are names of the same files; where the disk has none, as to another disk, they are symbolic.

    Returns:
        how many files there were; whether some links are symbolic, so that data.follow_links is needed.

    Args:
        root: folder that the paths of the source start in.
    Raises:
        StageError: another file has the name, or a path leads out of root.
    """
    folder.mkdir(parents=True, exist_ok=True)
    linked, symbolic = 0, False
    for video_id, path in tables.files.items():
        file, link = root / path, folder / f"{video_id}{Path(path).suffix.lower()}"
        if not file.is_file():
            continue  # `prepare` names what is missing
        _below(root, path)
        if not (link.exists() and os.path.samefile(file, link)):
            try:
                os.link(file.resolve(), link)
            except FileExistsError:
                raise StageError(f"{link} is there and is not {file}; use another --videos") from None
            except OSError:
                link.symlink_to(file.resolve())
                symbolic = True
        linked += 1
    return linked, symbolic


def _below(root: Path, path: str) -> str:
    """Return a path as seen from root. StageError: it leads out of root."""
    file = os.path.abspath(root / path)
    if not Path(file).is_relative_to(os.path.abspath(root)):
        raise StageError(f"{root / path} is not in {root}; --root says where the paths start")
    return Path(file).relative_to(os.path.abspath(root)).as_posix()
