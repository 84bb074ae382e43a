"""Counts rows by the commit records (`status`), and compares every file with its record (`verify`)."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.errors import CacheError, DamagedError, StorageError
from cache.fingerprint import file_sha256
from cache.layout import ARRAYS, GENERATION, KEY, PRODUCTS, RECORDS, SEGMENT, VOLUME_PRODUCTS
from cache.plan import Part
from cache.plan_files import read_plan
from cache.sealed import recorded_files
from cache.stores.open_product import read_product
from cache.stores.product_folder import ProductDir
from cache.stores.unit_records import UnitRecords
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ZarrStore

TEMPORARY = re.compile(r"(.*/)?\.[^/]*\.tmp|arrays\.zarr/.*\.partial")  # of a killed writer: ours; Zarr, before
MADE_HERE = re.compile(  # in the folder of a product
    rf"run\.json|done/(\d+\.json|segments/{SEGMENT.pattern})|locks/\w+|volumes/\d+-[0-9a-f]{{16}}\.h5"
    r"|arrays\.zarr/(\w+/)?(zarr\.json|c(/\d+)+|c(\.\d+)+)",
    re.ASCII,
)


@dataclass(frozen=True)
class Finding:
    """One file that is not as it should be; only damage makes a run untrustworthy."""

    path: Path
    # fails its check; no record names it; left by a killed writer; not made by this program, and left alone; the file
    # system does not give it, or what would tell whether a record names it: nothing is done about it
    kind: Literal["damaged", "orphan", "temporary", "foreign", "unknown"]
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
    """Count the rows of every product by its records; no data is read.

    CacheError where there is no plan, or where the plan, a run.json or a record is not what was written.
    """
    parts = {part.name: part for part in read_plan(run_dir)}
    return [_count(read_product(path, parts)) for path in product_paths(run_dir)]


def _count(directory: ProductDir) -> Count:
    """Count ok, skipped and todo each by itself, so that their sum is a check."""
    part, skips, ok, skipped = directory.part, directory.skips(), 0, 0
    for unit in directory.done_units():
        failed = {skip["video_id"] for skip in skips.get(unit, [])}
        ok += sum(part.video_ids[row] not in failed for row in part.unit_rows(unit))
        skipped += sum(part.video_ids[row] in failed for row in part.unit_rows(unit))
    todo = sum(len(part.unit_rows(unit)) for unit in directory.todo())
    return Count(directory.product, directory.key, part.name, ok, skipped, todo, part.num_rows)


def _skipped_videos(record: dict) -> set[str]:
    return {skip["video_id"] for skip in record["skipped"]}


def product_paths(run_dir: Path) -> list[Path]:
    """The folders of all products of a run, also those without a readable run.json."""
    folders = [path for product in PRODUCTS for path in _entries(run_dir / product) if not os.path.isfile(path)]
    return [path for path in folders if KEY.fullmatch(path.name) and not _never_begun(_names(path))]


def verify(run_dir: Path, fast: bool = False) -> Iterator[Finding]:
    """Check the plan, every product, trained network, result and table, and yield what is wrong.

    A record must fit its checksum. Every file that it names must be there in full size and, unless `fast`, have its
    SHA-256 and decode row by row. Files that no record names are orphans. CacheError where the plan is missing or
    damaged: without it nothing else can be judged.
    """
    parts = {part.name: part for part in read_plan(run_dir)}
    for path in product_paths(run_dir):
        yield from _verify_product(path, parts, fast)
    for record in other_records(run_dir):
        yield from _verify_record(record, fast)
    yield from strays(run_dir)
    for plan in _matching(run_dir, "models/*/generation-*/plan"):  # caches renewed in training: a run folder each
        yield from verify(plan.parent, fast)


def other_records(run_dir: Path) -> list[Path]:
    """The records of trained networks, of results and of tables; not in folders that `strays` cannot list."""
    return [path for pattern in RECORDS for path in _matching(run_dir, pattern)]


def _verify_record(record: Path, fast: bool) -> Iterator[Finding]:
    try:
        files = recorded_files(record)
    except (DamagedError, StorageError) as error:
        yield _failed(record, error)
        return
    for file in files:
        if wrong := _check_file(record.parent / file["name"], file["bytes"], "" if fast else file["sha256"]):
            yield wrong


def _failed(path: Path, error: Exception) -> Finding:
    """What an error says of a file: that it is damaged, or that it cannot be read now."""
    return Finding(path, "unknown" if isinstance(error, StorageError) else "damaged", str(error))


def _verify_product(path: Path, parts: dict[str, Part], fast: bool) -> Iterator[Finding]:
    try:
        directory = read_product(path, parts)
        directory.records.files(), directory.records.segments()
    except (CacheError, OSError) as error:
        if isinstance(error, OSError):
            yield _unlisted(path, error)
        else:
            yield _failed(path / "run.json", error)
        return
    found = {}  # a file that many records name, such as zarr.json, is checked and yielded once
    for place, record in directory.records.walk():
        if isinstance(record, Exception):
            yield _failed(place, record)
            continue
        unit = record["unit"]
        if unit not in range(directory.part.num_units):
            continue
        if not _fits_rows(directory, record):
            reason = f"{place}: rows or skipped videos of unit {unit} are not those of the plan"
            yield Finding(place, "damaged", reason)
            continue
        files = [(path / file["name"], file["bytes"], "" if fast else file["sha256"]) for file in record["files"]]
        for file in files:
            if file not in found:
                found[file] = _check_file(*file)
                if found[file]:
                    yield found[file]
        if not fast and not any(found[file] for file in files):
            try:
                _decode(directory, unit, record)
            except (CacheError, ValueError, OSError) as error:
                yield Finding(files[0][0], "damaged", f"cannot be decoded: {error}")


def _fits_rows(directory: ProductDir, record: dict) -> bool:
    """Whether a record's rows and skipped videos are those of the plan."""
    rows = directory.part.unit_rows(record["unit"])
    known = {directory.part.video_ids[row] for row in rows}
    return record["rows"] == [rows.start, rows.stop] and known >= _skipped_videos(record)


def _check_file(path: Path, num_bytes: int, sha256: str) -> Finding | None:
    """What is wrong with a committed file. An empty sha256 is not compared."""
    try:
        found = path.lstat()  # what is asked of a Path in other ways may answer no where it should answer: unknown
        if not stat.S_ISREG(found.st_mode):
            return Finding(path, "damaged", f"{path} is missing")
        if found.st_size != num_bytes:
            reason = f"{path} has {found.st_size} bytes, its record says {num_bytes}"
            return Finding(path, "damaged", reason)
        if sha256 and file_sha256(path) != sha256:
            return Finding(path, "damaged", f"{path} does not have the SHA-256 of its record")
    except (FileNotFoundError, NotADirectoryError):
        return Finding(path, "damaged", f"{path} is missing")
    except OSError as error:
        return Finding(path, "unknown", f"{path} cannot be read: {error.strerror or error}")
    return None


def _decode(directory: ProductDir, unit: int, record: dict) -> None:
    """Read every row of a unit that was not skipped."""
    failed = _skipped_videos(record)
    rows = [row for row in directory.part.unit_rows(unit) if directory.part.video_ids[row] not in failed]
    if directory.product in VOLUME_PRODUCTS:
        store = VolumeStore(directory)
        for row in rows:
            store.volume(row)
        store.close()
    else:
        store = ZarrStore.open(directory)
        for name in store.arrays:
            store.read_rows(name, rows)


def strays(run_dir: Path) -> Iterator[Finding]:
    """Files of the plan and of the products that no record names, and what killed writers left anywhere in the run."""
    folders = [run_dir, run_dir / "plan", run_dir / "report", run_dir / "results", run_dir / "models"]
    for folder in (*folders, *(run_dir / product for product in PRODUCTS)):
        try:
            os.scandir(folder).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            yield _unlisted(folder, error)
    for product in PRODUCTS:
        for path in _entries(run_dir / product):
            own = KEY.fullmatch(path.name) and not os.path.isfile(path)  # it says no where it cannot tell
            yield from _strays_of(path) if own else [_foreign(path)]
    below = [Path(folder) for folder, _, _ in os.walk(run_dir / "models")]
    for path in [path for folder in (*folders[:-1], *below) for path in _entries(folder)]:
        left = TEMPORARY.fullmatch(path.name)  # of folders only generations are renamed so
        if left and (not path.is_dir() or GENERATION.fullmatch(path.name[1:-4])):
            yield Finding(path, "temporary", "left by a writer that was killed")
    plan = _entries(run_dir / "plan")
    for path in plan:
        if path.match("part-[0-9][0-9][0-9]-*.parquet") and path.with_suffix(".json") not in plan:
            yield Finding(path, "orphan", "a part without its .json")


def _strays_of(path: Path) -> Iterator[Finding]:
    try:
        files = [Path(folder) / name for folder, _, names in os.walk(path, onerror=_raise) for name in sorted(names)]
    except OSError as error:
        yield _unlisted(path, error)
        return
    files = {str(file.relative_to(path)): file for file in files}
    if _never_begun(files) and all(map(_made_here, files)):
        yield Finding(path, "orphan", "a product that was never begun")
        return
    known = {"run.json", *(str(file.relative_to(path)) for file in path.glob(f"{ARRAYS}/**/zarr.json"))}
    unread = None  # a record that may name any file which no other one names
    for place, record in UnitRecords(path).walk():
        known.add(str(place.relative_to(path)))
        if isinstance(record, Exception):
            unread = unread or record
        else:
            known |= {file["name"] for file in record["files"]}
    for name, file in files.items():
        if TEMPORARY.fullmatch(name):
            yield Finding(file, "temporary", "left by a writer that was killed")
        elif not _made_here(name):
            yield _foreign(file)
        elif name not in known and not name.startswith("locks/"):
            left_over = Finding(file, "orphan", "no record names it")
            yield Finding(file, "unknown", f"a record that may name it: {unread}") if unread else left_over


def _made_here(name: str) -> bool:
    """Whether this package makes files of this name in the folder of a product."""
    return bool(MADE_HERE.fullmatch(name) or TEMPORARY.fullmatch(name))


def _raise(error: OSError) -> None:
    raise error


def _unlisted(path: Path, error: OSError) -> Finding:
    return Finding(path, "unknown", f"{error.filename or path} cannot be listed: {error.strerror or error}")


def _foreign(path: Path) -> Finding:
    return Finding(path, "foreign", "this program makes no such file; gc leaves it alone")


def _never_begun(names: Iterable[str]) -> bool:
    """Whether the writer was killed before it wrote run.json: the folder, of these files, holds nothing."""
    return not any(name == "run.json" or re.fullmatch(r"done/([^/]*\.json|segments.*)", name) for name in names)


def _names(product: Path) -> list[str]:
    return [str(path.relative_to(product)) for path in (*_entries(product), *_entries(product / "done"))]


def _matching(run_dir: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return sorted(run_dir.glob(pattern))
    return []


def _entries(folder: Path) -> list[Path]:
    """What a folder lists; nothing where it cannot be listed, which `strays` reports."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries)
    except OSError:
        return []
