"""gc: what killed writers and withdrawn units left behind is deleted; and the lock that keeps it off a live run."""

import shutil
from pathlib import Path

from cache.commit import locked, storage_errors
from cache.errors import CacheError
from cache.upkeep.verify import Finding, strays


def sweep(run_dir: Path, dry: bool = False) -> tuple[list[Finding], int]:
    """Delete temporary files and files that no record names.

    Args:
        dry: only say what would go.
    Returns:
        what was deleted, and its bytes.
    Raises:
        CacheError: the run is in use, or is none.
    """
    if not (run_dir / "plan").is_dir():
        raise CacheError(f"{run_dir} holds no plan; gc works on run folders only")
    with locked(run_dir / ".lock") as mine:
        if not mine:
            raise CacheError(f"{run_dir} is in use by another process; gc waits for nobody, run it later")
        found, size = list(strays(run_dir)), 0
        for finding in found:
            with storage_errors(finding.path):
                inside = finding.path.rglob("*") if finding.path.is_dir() else [finding.path]
                size += sum(path.lstat().st_size for path in inside if path.is_file())
                if not dry:
                    _remove(finding.path)
        return found, size


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    path.unlink()
    for folder in path.parents:  # empty shard folders go, too
        if folder.name in ("arrays.zarr", "volumes", "done", "plan") or any(folder.iterdir()):
            break
        folder.rmdir()
