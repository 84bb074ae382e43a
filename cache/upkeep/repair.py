"""verify --repair: what is damaged moves aside, with the records that vouch for it. Nothing is deleted."""

import os
from collections.abc import Iterable
from pathlib import Path

from cache.commit import storage_errors, sync_directory
from cache.upkeep.verify import Finding, done_records, named_files, vouched_records


def repair(run_dir: Path, findings: Iterable[Finding]) -> list[Path]:
    """Move damaged files, and the records that name them, to run_dir/quarantine; nothing is deleted.

    The next run of the stages makes exactly these units, networks and results anew. zarr.json files are made anew
    without their units.

    Returns:
        the places in quarantine.
    """
    moved = []
    for path in [finding.path for finding in findings if finding.kind == "damaged"]:
        for one in [path, *_records_of(run_dir, path)]:
            if one.exists() or one.is_symlink():
                moved.append(_quarantine(run_dir, one))
    return moved


def _records_of(run_dir: Path, path: Path) -> list[Path]:
    """What must go with a damaged file: the records that name it, or all that nobody can judge without it."""
    owner = next(folder for folder in path.parents if (folder / "plan").is_dir() or folder == run_dir)
    records = [record for record in vouched_records(owner) if record.parent == path.parent]
    if records:
        return [record for record in records if path.name in named_files(record)]
    product = next(folder for folder in path.parents if folder.parent.parent == owner)
    if path == product / "run.json":
        return [product]  # nobody can say any more what is in it
    if path.name == "zarr.json":
        return []
    name = str(path.relative_to(product))
    return [product / record for record in done_records(product) if name in named_files(product / record)]


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
