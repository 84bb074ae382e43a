"""The plan on disk: of each part a Parquet table of its rows, and a sealed JSON file that describes it."""

import hashlib
import io
import logging
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

from cache.commit import locked, write_file
from cache.errors import CacheError, DamagedError, StaleCacheError, relative_to
from cache.fingerprint import differences
from cache.plan import SCHEMA, Part, as_table
from cache.sealed import read_sealed, seal

FORMAT = 2
log = logging.getLogger(__name__)


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
        for row in range(part.num_rows):
            part.clip(row)  # raises where the crop leaves its frame
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


def recorded_parts(run_dir: Path) -> list[str]:
    """The names of the parts that the plan had when `prepare` wrote its tables; none where no record says so."""
    with suppress(DamagedError):
        return read_sealed(Path(run_dir) / "tables.json", "parts")["parts"]
    return []


def read_plan(run_dir: Path) -> list[Part]:
    """Every part of the plan, in the order of their numbers, with offsets.

    CacheError where there is no plan, or a number of its parts is missing or used twice; StaleCacheError where it has
    another format; DamagedError where a part is lost or not what was written: `prepare` makes it anew.
    """
    paths = sorted((Path(run_dir) / "plan").glob("part-*.json"))
    if not paths:
        place = "" if Path(run_dir).is_dir() else f", there is no such folder{relative_to(run_dir)}"
        raise CacheError(f"{run_dir} holds no plan (plan/part-000-*.json){place}; run prepare first, with this config")
    parts, offset = [], 0
    for number, path in enumerate(paths):
        if not path.name.startswith(f"part-{number:03d}-"):
            raise CacheError(f"{path}: expected part number {number:03d}, every number once; run `prepare`")
        parts.append(_read_part(path, offset))
        offset += parts[-1].num_rows
    if lost := sorted(set(recorded_parts(run_dir)) - {part.name for part in parts}):
        raise DamagedError(f"{run_dir}: {', '.join(lost)} of the plan is lost; `prepare` makes it anew")
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
