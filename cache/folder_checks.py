"""Checks before a stage starts: a folder's file system does what commits and locks need, and has enough space."""

import fcntl
import logging
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

from cache.commit import storage_errors, write_file, write_once
from cache.errors import StorageError

log = logging.getLogger(__name__)
MOUNTS = Path("/proc/self/mounts")  # a line a mount: device, place, kind, options
LOCAL_LOCKS = {  # kind of file system -> mount options with which flock does not reach other machines
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=flock"},
    "cifs": {"nobrl", "nolock"},
    "smb3": {"nobrl", "nolock"},
    "lustre": {"localflock"},
    "fuse.sshfs": {"rw", "ro"},  # always
}

SPARE_BYTES = 1 << 26  # that must stay free besides the estimate
SPARE_FILES = 100


def check_folder(folder: Path) -> None:
    """Try what commits and locks need: create, fsync, rename, a link that refuses an existing name, and flock.

    StorageError says which of these the file system cannot do, or does wrongly.
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
        with storage_errors(folder):  # where it is read-only, not even a file that is missing can be deleted
            trial.unlink(missing_ok=True)


def _check_lock(path: Path) -> None:
    """Raise where a second descriptor gets a lock that the first one holds; to flock they are two owners."""
    with storage_errors(path), open(path, "rb+") as first, open(path, "rb+") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise StorageError(f"{path.parent}: its file system grants a lock twice")


def check_space(folder: Path, num_bytes: int, num_files: int) -> None:
    """Raise StorageError where a folder has too few free bytes, or inodes if counted, for what a stage will write."""
    free, inodes = free_space(folder)
    if num_bytes and free < num_bytes + SPARE_BYTES:
        spare = f"{SPARE_BYTES / 1e6:,.0f} MB are to stay free"
        needed = f"{folder}: about {num_bytes / 1e6:,.0f} MB will be written and {spare}"
        raise StorageError(f"{needed}, {free / 1e6:,.0f} MB are free; not started")
    if num_files and inodes is not None and inodes < num_files + SPARE_FILES:
        raise StorageError(f"{folder}: about {num_files} files will be written, {inodes} inodes are free; not started")


def free_space(folder: Path) -> tuple[int, int | None]:
    """Free bytes and free inodes of the disk that a folder is on, or will be; None where inodes are not counted."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    with storage_errors(folder):
        found = os.statvfs(folder)
        return shutil.disk_usage(folder).free, found.f_favail if found.f_files else None


class Mount(NamedTuple):
    """A mounted file system: where, of which kind, such as "nfs4", with which options."""

    place: Path
    kind: str
    options: frozenset[str]


def check_locks(folder: Path, cluster: bool) -> None:
    """Warn, or with a cluster raise StorageError, where the locks in a folder do not reach other machines.

    Two machines could then do the same unit at once. Each file would still be whole, but two GPUs may differ in the
    last digits, so that a Zarr shard could come from one machine and the commit record from the other.
    """
    mount = mount_of(folder)
    if mount is None:
        return
    if reasons := LOCAL_LOCKS.get(mount.kind, set()) & mount.options:
        option = "" if mount.kind == "fuse.sshfs" else f" mounted with {', '.join(sorted(reasons))}"
        trouble = f"{folder} is on {mount.place}, {mount.kind}{option}: its locks do not reach other machines"
        if cluster:
            raise StorageError(f"{trouble}, so no cluster can work on it; mount it with shared locks")
        log.warning("%s; several of them may work on it only with --part I/N", trouble)
    elif mount.kind.startswith("fuse") and cluster:
        where = f"{folder} is on {mount.place}, {mount.kind}"
        log.warning("%s: whether its locks reach other machines depends on its driver, and cannot be seen here", where)


def mount_of(folder: Path) -> Mount | None:
    """The mount that a folder is on, the last one where several share a place; None where MOUNTS cannot be read."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return None
    folder, found = folder.resolve(), None
    for line in lines:
        _, place, kind, options, *_ = line.split(" ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place))  # a space is \040
        if folder.is_relative_to(place) and (found is None or len(place.parts) >= len(found.place.parts)):
            found = Mount(place, kind, frozenset(options.split(",")))
    return found
