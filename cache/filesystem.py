"""Before a stage starts: does the folder keep the promises that commits rest on, and has it room for what will come."""

import fcntl
import os
import shutil
import uuid
from pathlib import Path

from cache.commit import storage_errors, write_file, write_once
from cache.errors import StorageError

SPARE_BYTES = 1 << 26  # beside the estimate
SPARE_FILES = 100


def check_folder(folder: Path) -> None:
    """Try out what commits rest on: create, fsync, rename, a link that refuses an existing name, and flock.

    Raises:
        StorageError: names what the file system of the folder cannot do, or does wrongly.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    trial = folder / f".trial-{uuid.uuid4().hex}.tmp"
    try:
        write_file(trial, b"first")
        write_file(trial, b"second")
        if trial.read_bytes() != b"second":
            raise StorageError(f"{folder}: its file system does not replace a file by renaming")
        if write_once(trial, b"third") or trial.read_bytes() != b"second":
            raise StorageError(f"{folder}: its file system links onto a name that exists")
        _check_lock(trial)
    finally:
        trial.unlink(missing_ok=True)


def _check_lock(path: Path) -> None:
    """Two descriptors of one file are two owners to flock, even in one process."""
    with storage_errors(path), open(path, "rb+") as first, open(path, "rb+") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise StorageError(f"{path.parent}: its file system grants a lock twice")


def check_space(folder: Path, num_bytes: int, num_files: int) -> None:
    """Refuse to start what cannot end.

    Args:
        folder: the run folder, or a folder in it that exists.
        num_bytes, num_files: an estimate of what will be written.
    Raises:
        StorageError: the disk has less free space, or fewer free inodes (where its file system counts them).
    """
    free, inodes = free_space(folder)
    if num_bytes and free < num_bytes + SPARE_BYTES:
        raise StorageError(f"{folder}: about {_mb(num_bytes)} will be written, {_mb(free)} are free; not started")
    if num_files and inodes is not None and inodes < num_files + SPARE_FILES:
        raise StorageError(f"{folder}: about {num_files} files will be written, {inodes} inodes are free; not started")


def free_space(folder: Path) -> tuple[int, int | None]:
    """Free bytes and inodes where a folder is, or will be; None where its file system counts no inodes."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    with storage_errors(folder):
        found = os.statvfs(folder)
        return shutil.disk_usage(folder).free, found.f_favail if found.f_files else None


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
