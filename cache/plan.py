"""The plan: every row of a run, fixed before work starts, in parts that never change.

A unit is some whole videos that are committed together. A local row counts within its part, in which the rows of a
video follow each other; global row = part.offset + local row.
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cache.fingerprint import canonical
from cache.geometry import Clip, Theta

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("clip_index", pa.int32()),
        ("aug_index", pa.int32()),
        ("frame_start", pa.int32()),  # at the plan's rate
        ("num_frames", pa.int32()),  # of the video, at the plan's rate
        ("fps", pa.float64()),  # the plan's rate
        ("source_height", pa.int32()),
        ("source_width", pa.int32()),
        ("theta_resized_height", pa.int32()),
        ("theta_resized_width", pa.int32()),
        ("theta_crop_top", pa.int32()),
        ("theta_crop_left", pa.int32()),
        ("theta_input_height", pa.int32()),
        ("theta_input_width", pa.int32()),
        ("theta_flip", pa.bool_()),
        ("video_path", pa.string()),  # relative to the data root
        ("video_bytes", pa.int64()),
        ("video_sha256", pa.string()),
        ("video_timing", pa.string()),  # frames are found by "pts" or by "rate"
    ]
)
_INPUT_SIZE = ["theta_input_height", "theta_input_width"]


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a plan. ValueError, with row and column, where the rows break the rules below."""

    name: str  # "part-<three digits>-<split>"
    split: str
    rows: pd.DataFrame  # one per (video, clip, augmentation), video by video, with the columns of SCHEMA
    rows_per_video: int  # augmentations of a video in training, clips of a video in evaluation
    videos_per_unit: int  # the last unit may have fewer
    settings: dict  # of the clips, plain JSON; among them num_frames, the T frames of a clip
    offset: int = 0  # global row of the first row

    def __post_init__(self):
        if not re.fullmatch(rf"part-\d{{3}}-{re.escape(self.split)}", self.name):
            raise ValueError(f"a part of split {self.split!r} is named part-NNN-{self.split}, got {self.name!r}")
        if self.rows_per_video < 1 or self.videos_per_unit < 1:
            raise ValueError(f"{self.name}: rows_per_video and videos_per_unit must be >= 1")
        object.__setattr__(self, "rows", as_table(self.name, self.rows).to_pandas())
        object.__setattr__(self, "settings", json.loads(canonical(self.settings)))
        if self.settings.get("num_frames", 0) < 1:
            raise ValueError(f"{self.name}: settings.num_frames must be >= 1, got {self.settings.get('num_frames')}")
        self._check_order()

    def _check_order(self):
        rows, k = self.rows, self.rows_per_video
        if len(rows) % k:
            raise ValueError(f"{self.name}: {len(rows)} rows are not a multiple of rows_per_video {k}")
        videos = pd.factorize(rows.video_id)[0].reshape(-1, k)  # each video's number, by video and row of it
        astray = np.flatnonzero(videos != videos[:, :1])
        if len(astray):
            video_id = rows.video_id.iat[astray[0]]
            raise ValueError(f"{self.name}, row {astray[0]}: video_id {video_id!r} among the {k} rows of another")
        if len(np.unique(videos[:, 0])) < len(videos):
            raise ValueError(f"{self.name}: a video has more than {k} rows")
        identity = {"video": videos.ravel(), "clip": rows.clip_index.to_numpy(), "aug": rows.aug_index.to_numpy()}
        twice = np.flatnonzero(pd.DataFrame(identity).duplicated())
        if len(twice):
            raise ValueError(f"{self.name}, row {twice[0]}: (video_id, clip_index, aug_index) occurs twice")
        for column, value in zip(["split", *_INPUT_SIZE], [self.split, *self.input_size], strict=True):
            wrong = np.flatnonzero(rows[column] != value)
            if len(wrong):
                found = rows[column].tolist()[wrong[0]]
                raise ValueError(f"{self.name}, row {wrong[0]}: {column} {found!r}, not {value!r}")

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def num_videos(self) -> int:
        return self.num_rows // self.rows_per_video

    @property
    def rows_per_unit(self) -> int:
        """Rows of every unit but, perhaps, the last."""
        return self.rows_per_video * self.videos_per_unit

    @property
    def num_units(self) -> int:
        return math.ceil(self.num_rows / self.rows_per_unit)

    @property
    def num_frames(self) -> int:
        """T, of a clip."""
        return self.settings["num_frames"]

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input, the same for every row; (0, 0) in a part without rows."""
        return tuple(int(self.rows[column].iat[0]) for column in _INPUT_SIZE) if self.num_rows else (0, 0)

    @cached_property
    def video_ids(self) -> list[str]:
        """Of every local row."""
        return self.rows.video_id.tolist()

    @cached_property
    def fps(self) -> list[float]:
        """Of every local row: frames a second at the plan's rate."""
        return self.rows.fps.tolist()

    @cached_property
    def rows_sha256(self) -> str:
        """SHA-256 of the rows' values, whatever the file format and the versions of libraries."""
        digest = hashlib.sha256()
        for column in SCHEMA:
            digest.update(f"{column.name}:{column.type}:{self.num_rows};".encode())
            values = self.rows[column.name]
            if pa.types.is_string(column.type):
                texts = pa.array(values, pa.large_binary())  # in chunks where pandas keeps it so
                texts = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
                digest.update(pc.binary_length(texts).to_numpy().astype("<i8").tobytes())
                for chunk in texts.chunks:
                    digest.update(_joined(chunk))
            else:
                digest.update(values.to_numpy("<f8" if pa.types.is_floating(column.type) else "<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def _values(self) -> dict[str, list]:
        """Columns as lists of plain Python values: reading one row of a DataFrame is a hundred times slower."""
        return {name: self.rows[name].tolist() for name in SCHEMA.names}

    def video_rows(self, video_id: str) -> range:
        """Local rows of a video; none where the part does not have it."""
        found = np.flatnonzero((self.rows.video_id == video_id).to_numpy())
        return range(found[0], found[-1] + 1) if len(found) else range(0)

    def unit_rows(self, unit: int) -> range:
        """Local rows of a unit."""
        if not 0 <= unit < self.num_units:
            raise IndexError(f"{self.name} has units 0 to {self.num_units - 1}, got {unit}")
        first = unit * self.rows_per_unit
        return range(first, min(first + self.rows_per_unit, self.num_rows))

    def clip(self, row: int) -> Clip:
        """The clip of a local row; frames after the video's end repeat its last one."""
        if not 0 <= row < self.num_rows:
            raise IndexError(f"{self.name} has rows 0 to {self.num_rows - 1}, got {row}")
        value = {name: column[row] for name, column in self._values.items()}
        last = value["num_frames"] - 1
        return Clip(
            video_id=value["video_id"],
            clip_index=value["clip_index"],
            aug_index=value["aug_index"],
            frame_indices=tuple(min(value["frame_start"] + i, last) for i in range(self.num_frames)),
            theta=Theta(
                source_size=(value["source_height"], value["source_width"]),
                resized_size=(value["theta_resized_height"], value["theta_resized_width"]),
                crop_top=value["theta_crop_top"],
                crop_left=value["theta_crop_left"],
                input_size=(value["theta_input_height"], value["theta_input_width"]),
                flip=value["theta_flip"],
            ),
        )


def as_table(name: str, rows: pd.DataFrame) -> pa.Table:
    """Rows as an Arrow table of SCHEMA; ValueError where columns or their types differ, or a value is missing."""
    if unknown := sorted(set(rows.columns) - set(SCHEMA.names)):
        raise ValueError(f"{name}: columns the plan does not have: {', '.join(unknown)}")
    try:
        table = pa.Table.from_pandas(rows, schema=SCHEMA, preserve_index=False)
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"{name}: rows do not fit the plan's columns: {error}") from error
    for column in SCHEMA.names:
        if table[column].null_count:
            raise ValueError(f"{name}: column {column} has missing values")
    return table


def _joined(texts: pa.Array) -> memoryview:
    """The bytes of all texts (large_binary), one after the other; no Python object is made of any."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data or b"")[ends[0] : ends[-1]]
