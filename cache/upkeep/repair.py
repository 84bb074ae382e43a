"""Moves damaged files, and the records that name them, to quarantine/ in the run folder (`verify --repair`)."""

import os
from collections.abc import Iterable
from pathlib import Path

from cache.commit import storage_errors, sync_directory
from cache.errors import DamagedError, StorageError
from cache.layout import SEGMENT
from cache.sealed import recorded_files
from cache.stores.unit_records import UnitRecords
from cache.upkeep.verify import Finding, other_records


def repair(run_dir: Path, findings: Iterable[Finding]) -> list[Path]:
    """Move what `verify` found damaged, and the records that name it, to run_dir/quarantine; return the new paths.

    Nothing is deleted. The next run of the stages makes exactly these units, networks and results anew, and of a
    zarr.json the file alone. The records in a damaged segment that are whole get files of their own.
    """
    moved = []
    for path in [finding.path for finding in findings if finding.kind == "damaged"]:
        if SEGMENT.fullmatch(path.name):
            UnitRecords(path.parents[2]).unfold(path, lambda one: moved.append(_quarantine(run_dir, one)))
            continue
        for one in [path, *_records_of(run_dir, path)]:
            if one.exists() or one.is_symlink():
                moved.append(_quarantine(run_dir, one))
    return moved


def _records_of(run_dir: Path, path: Path) -> list[Path]:
    """What moves with a damaged file: the records that name it, or the whole product where its run.json is damaged."""
    owner = next(folder for folder in path.parents if (folder / "plan").is_dir() or folder == run_dir)
    records = [record for record in other_records(owner) if record.parent == path.parent]
    if records:
        return [record for record in records if path.name in _named_files(record)]
    product = next(folder for folder in path.parents if folder.parent.parent == owner)
    if path == product / "run.json":
        return [product]
    if path.name == "zarr.json":
        return []
    name, records = str(path.relative_to(product)), UnitRecords(product)
    for segment in {place for place in _naming(records, name) if place.parent == records.folder}:
        records.unfold(segment)
    return [place for place in _naming(records, name) if place.parent != records.folder]


def _naming(records: UnitRecords, name: str) -> list[Path]:
    """The file of each record of a unit that names some file."""
    read = ((place, record) for place, record in records.walk() if isinstance(record, dict))
    return [place for place, record in read if name in [file["name"] for file in record["files"]]]


def _named_files(record: Path) -> list[str]:
    """Files that a record names; none where it cannot be read, which `verify` reports."""
    try:
        return [file["name"] for file in recorded_files(record)]
    except (DamagedError, StorageError):
        return []


def _quarantine(run_dir: Path, path: Path) -> Path:
    target = run_dir / "quarantine" / path.relative_to(run_dir)
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{path.name}.{number}")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
        sync_directory(path.parent)
        sync_directory(target.parent)
    return target
