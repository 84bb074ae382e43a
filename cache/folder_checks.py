"""Before a stage starts: does the folder keep the promises that commits rest on, and has it room for what will come."""

import fcntl
import logging
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from cache.commit import storage_errors, write_file, write_once
from cache.errors import StorageError

log = logging.getLogger(__name__)
MOUNTS = Path("/proc/self/mounts")
ONLY_HERE = {  # kind of file system -> the options with which flock stays on this machine
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=flock"},
    "cifs": {"nobrl", "nolock"},
    "smb3": {"nobrl", "nolock"},
    "lustre": {"localflock"},
    "fuse.sshfs": {"rw", "ro"},  # always
}

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


@dataclass(frozen=True)
class Mount:
    """One line of the table of mounts."""

    place: Path
    kind: str
    options: frozenset[str]


def check_locks(folder: Path, cluster: bool, mounts: Path | None = None) -> None:
    """Warn, or refuse, where two machines could both believe that a unit is theirs.

    Commits stay whole without locks, but the same unit may then be done twice at once, and two GPUs need not agree on
    its last digits: a Zarr shard could belong to the one and its record to the other.

    Args:
        folder: the run folder.
        cluster: whether workers on other machines are about to be given units.
        mounts: the table of mounts, where it is not this machine's.
    Raises:
        StorageError: they are, and locks stay on each machine.
    """
    mount = mount_of(folder, mounts)
    if mount is None:
        return
    if reasons := ONLY_HERE.get(mount.kind, set()) & mount.options:
        option = "" if mount.kind == "fuse.sshfs" else f" mounted with {', '.join(sorted(reasons))}"
        trouble = f"{folder} is on {mount.place}, {mount.kind}{option}: its locks do not reach other machines"
        if cluster:
            raise StorageError(f"{trouble}, so no cluster can work on it; mount it with shared locks")
        log.warning("%s; several of them may work on it only with --part I/N", trouble)
    elif mount.kind.startswith("fuse") and cluster:
        log.warning(
            "%s is on %s, %s: whether its locks reach other machines depends on its driver, and cannot be seen here",
            *(folder, mount.place, mount.kind),
        )


def mount_of(folder: Path, mounts: Path | None = None) -> Mount | None:
    """The mount that a folder is on; None where there is no such table. Of several on one place the last one counts."""
    try:
        lines = (mounts or MOUNTS).read_text().splitlines()
    except OSError:
        return None
    folder, found = folder.resolve(), None
    for line in lines:
        _, place, kind, options, *_ = line.split(" ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place))  # a space is \040
        if folder.is_relative_to(place) and (found is None or len(place.parts) >= len(found.place.parts)):
            found = Mount(place, kind, frozenset(options.split(",")))
    return found
