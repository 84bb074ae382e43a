"""Moves damaged files, and the records that name them, to quarantine/ in the run folder (`verify --repair`)."""

import os
from collections.abc import Iterable
from pathlib import Path

from cache.commit import storage_errors, sync_directory
from cache.upkeep.verify import Finding, commit_records, named_files, other_records


def repair(run_dir: Path, findings: Iterable[Finding]) -> list[Path]:
    """Move what `verify` found damaged, and the records that name it, to run_dir/quarantine; return the new paths.

    Nothing is deleted. The next run of the stages makes exactly these units, networks and results anew, and of a
    zarr.json the file alone.
    """
    moved = []
    for path in [finding.path for finding in findings if finding.kind == "damaged"]:
        for one in [path, *_records_of(run_dir, path)]:
            if one.exists() or one.is_symlink():
                moved.append(_quarantine(run_dir, one))
    return moved


def _records_of(run_dir: Path, path: Path) -> list[Path]:
    """What moves with a damaged file: the records that name it, or the whole product where its run.json is damaged."""
    owner = next(folder for folder in path.parents if (folder / "plan").is_dir() or folder == run_dir)
    records = [record for record in other_records(owner) if record.parent == path.parent]
    if records:
        return [record for record in records if path.name in named_files(record)]
    product = next(folder for folder in path.parents if folder.parent.parent == owner)
    if path == product / "run.json":
        return [product]
    if path.name == "zarr.json":
        return []
    name = str(path.relative_to(product))
    return [record for record in commit_records(product) if name in named_files(record)]


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
