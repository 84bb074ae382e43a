"""The plan on disk: of each part a Parquet table of its rows, and a sealed JSON file that describes it."""

import hashlib
import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cache.commit import locked, write_file
from cache.errors import CacheError, DamagedError, StaleCacheError, relative_to
from cache.fingerprint import differences
from cache.geometry import Clip
from cache.plan import SCHEMA, Part, as_table
from cache.sealed import read_sealed, seal

FORMAT = 2
READ_AT_ONCE = 2_000_000  # rows; of a larger plan each part is read when its rows are asked for
FIELDS = ("name", "split", "rows_per_video", "videos_per_unit", "settings")  # of a Part, without its rows
META = (*FIELDS, "num_videos", "num_rows", "rows_sha256")  # what the JSON of a part says, beside its format
log = logging.getLogger(__name__)


class StoredPart(Part):
    """A part on the disk whose rows are read when they are first asked for, and again after `release`.

    Name, sizes and settings are known without them. DamagedError where what is read is not what was written.
    """

    def __init__(self, path: Path, meta: dict, offset: int):
        known = {name: meta[name] for name in FIELDS}
        self.__dict__.update(known, path=path, meta=meta, offset=offset, whole=None)

    @property
    def num_rows(self) -> int:
        return self.meta["num_rows"]

    @property
    def rows_sha256(self) -> str:
        return self.meta["rows_sha256"]

    @property
    def rows(self) -> pd.DataFrame:
        return self._read().rows

    @property
    def video_ids(self) -> list[str]:
        return self._read().video_ids

    @property
    def fps(self) -> list[float]:
        return self._read().fps

    @cached_property
    def input_size(self) -> tuple[int, int]:
        return self._read().input_size

    def video_rows(self, video_id: str) -> range:
        """As `Part.video_rows`; a part without the video is not kept in memory."""
        column = pq.read_table(self.path.with_suffix(".parquet"), columns=["video_id"]).column("video_id")
        return self._read().video_rows(video_id) if pc.any(pc.equal(column, video_id)).as_py() else range(0)

    def clip(self, row: int) -> Clip:
        return self._read().clip(row)

    def release(self) -> None:
        """Forget the rows, of which a process cannot hold those of all parts."""
        self.__dict__["whole"] = None

    def _read(self) -> Part:
        whole = self.whole or _read_part(self.path, self.offset)
        self.__dict__["whole"] = whole
        return whole

    def __getstate__(self) -> dict:
        return self.__dict__ | {"whole": None}


def write_part(run_dir: Path, part: Part) -> Path:
    """Write a part to run_dir/plan, unless the same one is there; return the path of its JSON file.

    A part that was lost or damaged is written anew. StaleCacheError, with the first field that differs, where another
    part of this name is there, or was when products were made; ValueError where a row's crop leaves its frame.
    """
    path = Path(run_dir) / "plan" / f"{part.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / ".lock", wait=True):
        if path.exists() and _is_sound(path, part):
            return path
        _refuse_other_products(Path(run_dir), part)
        for row in _astray(part):
            part.clip(row)  # raises, for the crop leaves its frame
        buffer = io.BytesIO()
        pq.write_table(as_table(part.name, part.rows), buffer)
        write_file(path.with_suffix(".parquet"), buffer.getvalue())
        meta = _meta(part) | {"parquet_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
        write_file(path, seal(meta))
    return path


def _is_sound(path: Path, part: Part) -> bool:
    """Whether the part at path is the given one; False where it is lost or damaged. Raises as `write_part`."""
    try:
        _refuse_other(path, part)
        return True
    except DamagedError as error:
        log.warning("%s; it is made anew", error)
    with suppress(DamagedError):
        meta = read_sealed(path, "parquet_sha256")
        del meta["parquet_sha256"]
        if wrong := differences(meta, _meta(part)):
            raise StaleCacheError(f"{path}: its rows are lost, and are not those that would be made now: {wrong[0]}")
    return False


def _refuse_other_products(run_dir: Path, part: Part) -> None:
    """Raise StaleCacheError where a product was made from other rows of the part, which is not there any more."""
    for file in sorted(run_dir.glob("*/*/run.json")):
        with suppress(DamagedError):
            run = read_sealed(file, "part", "rows_sha256")
            if run["part"] == part.name and run["rows_sha256"] != part.rows_sha256:
                raise StaleCacheError(f"{file} was made from other rows of {part.name}, which are lost")


def part_names(run_dir: Path) -> list[str]:
    """The names of the parts that are there, sorted."""
    return sorted(path.stem for path in (Path(run_dir) / "plan").glob("part-*.json"))


def largest_part(run_dir: Path) -> int:
    """Rows of the largest part whose description can be read; 0 where there is none."""
    return max(_sizes((Path(run_dir) / "plan").glob("part-*.json")), default=0)


def _sizes(paths: Iterable[Path]) -> Iterator[int]:
    """Numbers of rows, of the parts whose description can be read."""
    for path in paths:
        with suppress(DamagedError):
            yield read_sealed(path, "num_rows")["num_rows"]


def recorded_parts(run_dir: Path) -> list[str]:
    """The names of the parts that the plan had when `prepare` wrote its tables; none where no record says so."""
    with suppress(DamagedError):
        return read_sealed(Path(run_dir) / "tables.json", "parts")["parts"]
    return []


def read_plan(run_dir: Path) -> list[Part]:
    """Every part of the plan, in the order of their numbers, with offsets.

    Of a large plan the parts are of `StoredPart`: then their rows are read, and found damaged, later.

    CacheError where there is no plan, or a number of its parts is missing or used twice; StaleCacheError where it has
    another format; DamagedError where a part is lost or not what was written: `prepare` makes it anew.
    """
    paths = sorted((Path(run_dir) / "plan").glob("part-*.json"))
    if not paths:
        place = "" if Path(run_dir).is_dir() else f", there is no such folder{relative_to(run_dir)}"
        raise CacheError(f"{run_dir} holds no plan (plan/part-000-*.json){place}; run prepare first, with this config")
    parts, offset = [], 0
    read = _read_part if sum(_sizes(paths)) <= READ_AT_ONCE else _open_part
    for number, path in enumerate(paths):
        if not path.name.startswith(f"part-{number:03d}-"):
            raise CacheError(f"{path}: expected part number {number:03d}, every number once; run `prepare`")
        parts.append(read(path, offset))
        offset += parts[-1].num_rows
    if lost := sorted(set(recorded_parts(run_dir)) - {part.name for part in parts}):
        raise DamagedError(f"{run_dir}: {', '.join(lost)} of the plan is lost; `prepare` makes it anew")
    return parts


def _open_part(path: Path, offset: int) -> StoredPart:
    """A part whose table is there; it is read later."""
    meta = read_sealed(path, "format", "parquet_sha256", *META)
    if meta["format"] != FORMAT:
        raise StaleCacheError(f"{path}: format: {meta['format']} != {FORMAT}")
    if not path.with_suffix(".parquet").is_file():
        raise DamagedError(f"{path.with_suffix('.parquet')} is lost")
    return StoredPart(path, meta, offset)


def _read_part(path: Path, offset: int = 0) -> Part:
    try:
        meta = read_sealed(path)
        data = path.with_suffix(".parquet").read_bytes()
        if meta["format"] != FORMAT:
            raise StaleCacheError(f"{path}: format: {meta['format']} != {FORMAT}")
        if hashlib.sha256(data).hexdigest() != meta.pop("parquet_sha256"):
            raise DamagedError(f"{path.with_suffix('.parquet')} is not the file that {path.name} describes")
        fields = {name: meta[name] for name in FIELDS}
        part = Part(rows=pq.read_table(io.BytesIO(data)).to_pandas(), offset=offset, **fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: {error}") from error
    if wrong := differences(meta, _meta(part)):
        raise DamagedError(f"{path}: {wrong[0]}")
    return part


def _refuse_other(path: Path, part: Part):
    """Raise StaleCacheError unless the part at path equals the given one."""
    old = _read_part(path)
    wrong = differences(_meta(old), _meta(part))
    if not wrong:
        return
    if old.num_rows == part.num_rows:
        for name in SCHEMA.names:
            values = zip(old.rows[name].tolist(), part.rows[name].tolist(), strict=True)
            for row, (left, right) in enumerate(values):
                if left != right:
                    where = f"{name} of row {row}, {old.rows.video_id[row]}"
                    raise StaleCacheError(f"{path} cannot change: {where}: {left!r} != {right!r}")
    raise StaleCacheError(f"{path} cannot change: {wrong[0]}")


def _astray(part: Part) -> list[int]:
    """Rows whose crop may leave the resized frame."""
    value, wrong = part.rows, np.zeros(part.num_rows, bool)
    for corner, side in (("top", "height"), ("left", "width")):
        low, length = value[f"theta_crop_{corner}"], value[f"theta_input_{side}"]
        wrong |= ((low < 0) | (length < 1) | (low + length > value[f"theta_resized_{side}"])).to_numpy()
    return np.flatnonzero(wrong).tolist()


def _meta(part: Part) -> dict:
    return {"format": FORMAT} | {name: getattr(part, name) for name in META}
