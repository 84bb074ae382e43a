"""The plan on disk: of each part a Parquet table of its rows, and a sealed JSON file that describes it."""

import hashlib
import io
from pathlib import Path

import pyarrow.parquet as pq

from cache.commit import locked, write_file
from cache.errors import CacheError, DamagedError, StaleCacheError, relative_to
from cache.fingerprint import differences
from cache.plan import SCHEMA, Part, as_table
from cache.sealed import read_sealed, seal

FORMAT = 2


def write_part(run_dir: Path, part: Part) -> Path:
    """Write a part to run_dir/plan, unless the same one is there; return the path of its JSON file.

    StaleCacheError, with the first field that differs, where another part of this name is there; ValueError where a
    row's crop leaves its frame.
    """
    path = Path(run_dir) / "plan" / f"{part.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / ".lock", wait=True):
        if path.exists():
            _refuse_other(path, part)
            return path
        for row in range(part.num_rows):
            part.clip(row)  # raises where the crop leaves its frame
        buffer = io.BytesIO()
        pq.write_table(as_table(part.name, part.rows), buffer)
        write_file(path.with_suffix(".parquet"), buffer.getvalue())
        meta = _meta(part) | {"parquet_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
        write_file(path, seal(meta))
    return path


def read_plan(run_dir: Path) -> list[Part]:
    """Every part of the plan, in the order of their numbers, with offsets.

    CacheError where there is no plan, or a number of its parts is missing or used twice; StaleCacheError where it has
    another format; DamagedError where a part is not what was written.
    """
    paths = sorted((Path(run_dir) / "plan").glob("part-*.json"))
    if not paths:
        place = "" if Path(run_dir).is_dir() else f", there is no such folder{relative_to(run_dir)}"
        raise CacheError(f"{run_dir} holds no plan (plan/part-000-*.json){place}; run prepare first, with this config")
    parts, offset = [], 0
    for number, path in enumerate(paths):
        if not path.name.startswith(f"part-{number:03d}-"):
            raise CacheError(f"{path}: expected part number {number:03d}, every number once")
        parts.append(_read_part(path, offset))
        offset += parts[-1].num_rows
    return parts


def _read_part(path: Path, offset: int = 0) -> Part:
    try:
        meta = read_sealed(path)
        data = path.with_suffix(".parquet").read_bytes()
        if meta["format"] != FORMAT:
            raise StaleCacheError(f"{path}: format: {meta['format']} != {FORMAT}")
        if hashlib.sha256(data).hexdigest() != meta.pop("parquet_sha256"):
            raise DamagedError(f"{path.with_suffix('.parquet')} is not the file that {path.name} describes")
        fields = {name: meta[name] for name in ("name", "split", "rows_per_video", "videos_per_unit", "settings")}
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
                    raise StaleCacheError(f"{path} cannot change: {name} of row {row}: {left!r} != {right!r}")
    raise StaleCacheError(f"{path} cannot change: {wrong[0]}")


def _meta(part: Part) -> dict:
    names = ("name", "split", "rows_per_video", "videos_per_unit", "settings", "num_videos", "num_rows", "rows_sha256")
    return {"format": FORMAT} | {name: getattr(part, name) for name in names}
