"""Deletes the temporary files and the files without a record in a run folder, and gathers its records (`gc`)."""

import shutil
from contextlib import suppress
from pathlib import Path

from cache.commit import in_use, locked, storage_errors
from cache.errors import CacheError, DamagedError, relative_to
from cache.layout import ARRAYS, RUN_LOCK
from cache.stores.unit_records import FEWEST, UnitRecords
from cache.upkeep.verify import Finding, product_paths, strays


def sweep(run_dir: Path, dry: bool = False) -> tuple[list[Finding], int]:
    """Delete temporary files and files that no record names, unless `dry`; return them and their bytes.

    Only names that this program makes: what somebody else has put into the folder stays. So does what may be named by a
    record that cannot be read; it is returned as well, as "unknown".

    CacheError where another process uses the run, or the folder is no run; StorageError where the file system refuses.
    """
    if not (run_dir / "plan").is_dir():
        raise CacheError(f"{run_dir} holds no plan{relative_to(run_dir)}; gc works on run folders only")
    with locked(run_dir / RUN_LOCK) as mine:
        if not mine:
            raise CacheError(f"{run_dir} is in use by another process; gc does not wait, run it later")
        found, size = [finding for finding in strays(run_dir) if finding.kind != "foreign"], 0
        for finding in found:
            if finding.kind == "unknown":
                continue
            with storage_errors(finding.path):
                inside = finding.path.rglob("*") if finding.path.is_dir() else [finding.path]
                size += sum(path.lstat().st_size for path in inside if path.is_file())
                if not dry:
                    _remove(finding.path)
        return found, size


def gather(run_dir: Path) -> int:
    """Gather the commit records of all products with many done units in segments; return how many."""
    number = 0
    with in_use(run_dir):
        for records in map(UnitRecords, product_paths(run_dir)):
            with suppress(DamagedError, OSError):  # `verify` says what is wrong
                number += records.fold(fewest=1) if len(records.units()) >= FEWEST else 0
    return number


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    path.unlink()
    for folder in path.parents:  # empty folders of shards
        if folder.name in (ARRAYS, "volumes", "done", "plan") or any(folder.iterdir()):
            break
        folder.rmdir()
