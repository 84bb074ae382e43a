"""A folder of predictions: its tables, and the record that says which weights made them. Needs no network."""

import io
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cache.commit import write_file
from cache.errors import DamagedError
from cache.sealed import read_record
from pipeline.data.own_boxes import BOX
from pipeline.data.plain_csv import PLAIN_COLUMNS, SCORE
from pipeline.data.strict_csv import parse_seconds, read_rows
from pipeline.data.video.find import file_name, id_of

RECORD = "predictions.json"
WINDOWS = "windows.parquet"  # a folder with a file a video, which pandas and others read as one table
FILMS = "films"  # a folder beside the tables
MADE_FROM = b"made_from"  # in the metadata of each of these files: the key of what it was made from
SOURCE, SIZE = b"path", b"size"  # of the video: its path as it was given; height and width of its frames
POOLING = b"pooling"  # see VideoTable; not there: "max"
SEGMENT = b"segment"  # see VideoTable; not there: 0
FACTS = ("video_id", "start", "end", "entropy", *(f"box_{side}" for side in BOX))
OTHER_BOX = re.compile(rf"box([1-9][0-9]?)_({'|'.join(BOX)})")  # of a window's second box: box2_top, ...


def fact_columns(num_boxes: int) -> list[str]:
    """Return the columns of a table beside its classes: FACTS, and the edges of further boxes."""
    others = (f"box{number}_{side}" for number in range(2, num_boxes + 1) for side in BOX)
    return [*FACTS, *others]


def is_fact(name: str) -> bool:
    """Whether a column is one of `fact_columns`."""
    return name in FACTS or OTHER_BOX.fullmatch(name) is not None


@dataclass(frozen=True)
class VideoTable:
    """What was found in one video: a row a window with `fact_columns` and the score of every class, in [0, 1].

    Times are seconds from the first frame, boxes are in source pixels, entropy is Base's, in nats. Where the box moves
    within a window, its boxes are those of segments of time.
    """

    path: str  # of the video
    size: tuple[int, int]  # (height, width) of its frames, pixels
    table: pd.DataFrame
    pooling: Literal["max", "mean"]  # how the scores of windows become that of the video
    segment: float = field(default=0.0, kw_only=True)  # seconds that a box holds; 0 for the whole window

    @property
    def video_id(self) -> str:
        """The name under which tables list the video."""
        return self.table.video_id.iat[0]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the networks' outputs."""
        return [name for name in self.table.columns if not is_fact(name)]

    @cached_property
    def scores(self) -> pd.Series:
        """The score of the video for each class: the maximum, or the mean, over its windows; see `pooling`."""
        return self.table[self.classes].agg(self.pooling).rename("score")

    @property
    def windows(self) -> pd.DataFrame:
        """Start, end (seconds), entropy and one column a class."""
        return self.table[["start", "end", "entropy", *self.classes]]

    @property
    def edges(self) -> np.ndarray:
        """Top, left, height, width (source pixels) of the boxes of each window, int64 (windows, boxes, 4)."""
        edges = [name for name in self.table.columns if name in FACTS[4:] or OTHER_BOX.fullmatch(name)]
        return self.table[edges].to_numpy(np.int64).reshape(len(self.table), -1, len(BOX))

    @property
    def boxes(self) -> pd.DataFrame:
        """Start, end (seconds), top, left, height, width (source pixels): a row a box, window by window.

        A box of a segment of time holds for its part of the window; one that begins after the end of a video that is
        shorter than the window is left out.
        """
        count = self.edges.shape[1]
        times = self.table[["start", "end"]].loc[self.table.index.repeat(count)].reset_index(drop=True)
        if self.segment:
            first = times.start + self.segment * np.tile(np.arange(count), len(self.table))
            times = pd.DataFrame({"start": first, "end": np.minimum(first + self.segment, times.end)})
        boxes = pd.concat([times, pd.DataFrame(self.edges.reshape(-1, len(BOX)), columns=list(BOX))], axis=1)
        return boxes[boxes.start < boxes.end - 1e-9].reset_index(drop=True) if self.segment else boxes


def write_video(folder: Path, found: VideoTable, made_from: str) -> None:
    """Commit the windows of a video; `made_from` is the key of weights, settings and content of the video."""
    table = pa.Table.from_pandas(found.table, preserve_index=False)
    facts = {MADE_FROM: made_from, SOURCE: found.path, SIZE: "{} {}".format(*found.size)}
    facts |= {POOLING: found.pooling} if found.pooling != "max" else {}
    facts |= {SEGMENT: repr(found.segment)} if found.segment else {}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | facts)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    path = video_path(folder, found.video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, buffer.getvalue())


def is_done(folder: Path, video_id: str, made_from: str) -> bool:
    """Whether the windows of a video are there, made from just this; a damaged file is not."""
    path = video_path(folder, video_id)
    try:
        return path.is_file() and pq.read_schema(path).metadata.get(MADE_FROM) == made_from.encode()
    except pa.ArrowException:
        return False


def read_video(folder: Path, video_id: str) -> VideoTable:
    """Read the windows of a video; DamagedError where their file is cut, or not one of `write_video`."""
    path = video_path(folder, video_id)
    try:
        table = pq.ParquetFile(path).read()
        facts = table.schema.metadata
        size, pooling = tuple(map(int, facts[SIZE].split())), facts.get(POOLING, b"max").decode()
        segment = float(facts.get(SEGMENT, 0))
        return VideoTable(facts[SOURCE].decode(), size, table.to_pandas(), pooling, segment=segment)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # of the file system; PyArrow's own have none
            raise
        fix = "delete it and repeat predict, which makes it again"
        raise DamagedError(f"{path} is damaged ({error!r}); {fix}") from error


def videos_in(folder: Path) -> list[str]:
    """Return the ids of the videos whose windows are there."""
    return sorted(id_of(path.name.removesuffix(".parquet")) for path in (folder / WINDOWS).glob("[!.]*.parquet"))


def is_predictions(folder: Path) -> bool:
    """Whether a folder holds finished predictions."""
    return (folder / RECORD).is_file()


def read_facts(folder: Path) -> dict:
    """Return what the record of a predictions folder says: experiment, weights, protocol, classes, thresholds."""
    return read_record(folder / RECORD, "experiment", "weights", "protocol", "classes", "thresholds")


def video_path(folder: Path, video_id: str) -> Path:
    """Return where the windows of a video are."""
    return folder / WINDOWS / f"{file_name(video_id)}.parquet"


def film_path(folder: Path, video_id: str) -> Path:
    """Return where the film of a video is."""
    return folder / FILMS / f"{file_name(video_id)}.mp4"


def read_timeline(folder: Path) -> pd.DataFrame:
    """Read timeline.csv, which people correct: video_id, split, start, end (seconds; NaN: none), label.

    AnnotationError, with file and line, where it is not in the format of our annotations.
    """
    path = folder / "timeline.csv"
    rows = list(read_rows(path, PLAIN_COLUMNS, SCORE, ("start", "end")))
    table = pd.DataFrame([row for _, row in rows], columns=PLAIN_COLUMNS)
    for name in ("start", "end"):
        table[name] = [parse_seconds(path, line, name, row[name]) if row[name] else np.nan for line, row in rows]
    return table
