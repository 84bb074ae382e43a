"""status counts what the records say; verify reads everything they vouch for."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cache.errors import CacheError, DamagedError
from cache.fingerprint import file_sha256
from cache.layout import PRODUCTS, RECORDS
from cache.plan import Part
from cache.plan_files import read_plan
from cache.sealed import read_sealed
from cache.stores.product_folder import ProductDir, read_product
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ZarrStore

TEMPORARY = (".tmp", ".partial")  # what a killed writer leaves: ours, Zarr's


@dataclass(frozen=True)
class Finding:
    """One file that is not as it should be.

    kind: "damaged", a committed file or record that fails its check; "orphan", a file that no record names;
    "temporary", what a killed writer left. Only damage makes a run untrustworthy.
    """

    path: Path
    kind: Literal["damaged", "orphan", "temporary"]
    reason: str


@dataclass(frozen=True)
class Count:
    """Rows of one product and plan part: ok + skipped + todo = total."""

    product: str
    key: str
    part: str
    ok: int
    skipped: int
    todo: int
    total: int


def status(run_dir: Path) -> list[Count]:
    """Count the rows of every product by its records. Reads no data: see `verify`.

    Raises:
        CacheError: no plan, or a plan, run.json or record that is not what was written.
    """
    parts = {part.name: part for part in read_plan(run_dir)}
    return [_count(read_product(path, parts)) for path in product_paths(run_dir)]


def _count(directory: ProductDir) -> Count:
    part, todo = directory.part, directory.todo()
    waiting = sum(len(part.unit_rows(unit)) for unit in todo)
    skipped = 0
    for unit in directory.skips():
        failed = {entry["video_id"] for entry in directory.done(unit)["skipped"]}
        skipped += sum(part.video_ids[row] in failed for row in part.unit_rows(unit))
    # counted, not subtracted: their sum is the check
    ok = 0
    for unit in sorted(set(range(part.num_units)) - set(todo)):
        failed = {entry["video_id"] for entry in directory.done(unit)["skipped"]}
        ok += sum(part.video_ids[row] not in failed for row in part.unit_rows(unit))
    return Count(directory.product, directory.key, part.name, ok, skipped, waiting, part.num_rows)


def product_paths(run_dir: Path) -> list[Path]:
    """Every product directory of a run, with or without a readable run.json."""
    folders = [path for product in PRODUCTS for path in sorted((run_dir / product).glob("*")) if path.is_dir()]
    return [path for path in folders if not _never_begun(path)]


def verify(run_dir: Path, fast: bool = False) -> Iterator[Finding]:
    """Check the plan, every product, trained network and result, and yield what is wrong.

    Every record is parsed against its checksum; every file it names must be there in full size and, unless `fast`, have
    its SHA-256 and decode row by row. Files that no record names are yielded as orphans.

    Raises:
        CacheError: there is no plan, or it is damaged: without it nothing else can be judged.
    """
    parts = {part.name: part for part in read_plan(run_dir)}
    for path in product_paths(run_dir):
        yield from _verify_product(path, parts, fast)
    for record in vouched_records(run_dir):
        yield from _verify_vouched(record, fast)
    yield from strays(run_dir)
    for generation in generations(run_dir):
        yield from verify(generation, fast)


def vouched_records(run_dir: Path) -> list[Path]:
    """Records of trained networks and of results."""
    return [path for pattern in RECORDS for path in sorted(run_dir.glob(pattern))]


def generations(run_dir: Path) -> list[Path]:
    """Run folders of their own, beside a model whose boxes came from itself."""
    return [path.parent for path in sorted(run_dir.glob("models/*/generation-*/plan"))]


def _verify_vouched(record: Path, fast: bool) -> Iterator[Finding]:
    try:
        files = read_sealed(record, "files")["files"]
    except DamagedError as error:
        yield Finding(record, "damaged", str(error))
        return
    for file in files:
        if reason := _check_file(record.parent, file, fast, {}):
            yield Finding(record.parent / file["name"], "damaged", reason)


def _verify_product(path: Path, parts: dict[str, Part], fast: bool) -> Iterator[Finding]:
    try:
        directory = read_product(path, parts)
    except CacheError as error:
        yield Finding(path / "run.json", "damaged", str(error))
        return
    found = {}  # a file that many records name is checked and yielded once
    for unit in sorted(set(range(directory.part.num_units)) - set(directory.todo())):
        try:
            record = directory.done(unit)
            _check_rows(directory, unit, record)
        except DamagedError as error:
            yield Finding(record_path(path, unit), "damaged", str(error))
            continue
        sound = True
        for file in record["files"]:
            reason = _check_file(path, file, fast, found)
            sound &= not reason
            if reason and file["name"] not in found:
                yield Finding(path / file["name"], "damaged", reason)
            found[file["name"]] = reason
        if sound and not fast:
            try:
                _decode(directory, unit, record)
            except (CacheError, ValueError, OSError) as error:
                yield Finding(path / record["files"][0]["name"], "damaged", f"cannot be decoded: {error}")


def _check_rows(directory: ProductDir, unit: int, record: dict) -> None:
    rows = directory.part.unit_rows(unit)
    known = {directory.part.video_ids[row] for row in rows}
    if record["rows"] != [rows.start, rows.stop] or not known >= {skip["video_id"] for skip in record["skipped"]}:
        raise DamagedError(f"{record_path(directory.path, unit)}: its rows or skipped videos are not those of the plan")


def _check_file(path: Path, file: dict, fast: bool, found: dict) -> str:
    """What is wrong with a committed file; "" if nothing is."""
    target = path / file["name"]
    if target.is_symlink() or not target.is_file():
        return f"{target} is missing"
    if target.stat().st_size != file["bytes"]:
        return f"{target} has {target.stat().st_size} bytes, its record says {file['bytes']}"
    if fast or (file["name"] in found and not found[file["name"]]):
        return ""
    return "" if file_sha256(target) == file["sha256"] else f"{target} does not have the SHA-256 of its record"


def _decode(directory: ProductDir, unit: int, record: dict) -> None:
    """Read every row of a unit as a reader would."""
    failed = {entry["video_id"] for entry in record["skipped"]}
    rows = [row for row in directory.part.unit_rows(unit) if directory.part.video_ids[row] not in failed]
    if directory.product in ("context", "crops"):
        store = VolumeStore(directory)
        for row in rows:
            store.volume(row)
        store.close()
    else:
        store = ZarrStore.open(directory)
        for name in store.arrays:
            store.read_rows(name, np.array(rows, np.int64))


def strays(run_dir: Path) -> Iterator[Finding]:
    """Files of the plan and of the products that no record names, and what killed writers left anywhere in the run."""
    for product in PRODUCTS:
        for path in sorted((run_dir / product).glob("*")):
            yield from _strays_of(path) if path.is_dir() else [Finding(path, "orphan", "belongs to no product")]
    folders = [run_dir, run_dir / "plan", run_dir / "report", run_dir / "results", *(run_dir / "models").glob("**")]
    for folder in folders:
        for path in sorted(folder.glob(".*.tmp")):
            yield Finding(path, "temporary", "left by a writer that was killed")
    for path in sorted((run_dir / "plan").glob("*.parquet")):
        if not path.with_suffix(".json").exists():
            yield Finding(path, "orphan", "a part without its .json")


def _strays_of(path: Path) -> Iterator[Finding]:
    if _never_begun(path):
        yield Finding(path, "orphan", "a product that was never begun")
        return
    known = {"run.json", *(str(file.relative_to(path)) for file in path.glob("arrays.zarr/**/zarr.json"))}
    for record in done_records(path):
        known |= {record, *named_files(path / record)}
    for folder, _, files in os.walk(path):
        for name in sorted(files):
            file = Path(folder) / name
            relative = str(file.relative_to(path))
            if name.endswith(TEMPORARY):
                yield Finding(file, "temporary", "left by a writer that was killed")
            elif relative not in known and not relative.startswith("locks/"):
                yield Finding(file, "orphan", "no record names it")


def done_records(path: Path) -> list[str]:
    """Names of a product's commit records."""
    return [f"done/{file.name}" for file in sorted((path / "done").glob("[0-9]*.json"))]


def named_files(record: Path) -> list[str]:
    """Files that a record names; none where it cannot be read, `verify` says so."""
    try:
        return [file["name"] for file in read_sealed(record, "files")["files"]]
    except DamagedError:
        return []


def _never_begun(path: Path) -> bool:
    """A writer was killed between mkdir and run.json: nothing can be in it."""
    return not (path / "run.json").exists() and not any((path / "done").glob("*.json"))


def record_path(product: Path, unit: int) -> Path:
    return product / "done" / f"{unit:06d}.json"
