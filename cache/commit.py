"""Files that appear whole or not at all, and locks that the kernel frees when their process ends.

A file is written under a temporary name, fsynced, and renamed (or linked, where exactly one writer may win); then its
directory is fsynced. Whatever writes or locks raises StorageError where the file system refuses.
"""

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.errors import StorageError
from cache.layout import RUN_LOCK


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def sync_directory(path: Path) -> None:
    """Fsync a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(files: list[Path], root: Path) -> None:
    """Fsync files that another library wrote, then every directory from theirs up to root, deepest first."""
    folders = {root}
    for file in files:
        with storage_errors(file), open(file, "rb") as handle:
            os.fsync(handle.fileno())
        folders |= {root / folder for folder in file.relative_to(root).parents}
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with storage_errors(folder):
            sync_directory(folder)


def write_file(path: Path, data: bytes) -> None:
    """Write or replace a file: after a kill or a power cut it has the old content or the new, never a mixture."""
    with storage_errors(path), _temporary(path, data) as temporary:
        os.replace(temporary, path)


def write_once(path: Path, data: bytes) -> bool:
    """Create a file if it is absent; return whether this call did. Of several processes exactly one does."""
    with storage_errors(path), _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """Write a durable temporary file beside path; fsync the directory after the caller has renamed or linked it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait: bool = False, shared: bool = False, sign: bool = False) -> Iterator[bool]:
    """Hold a lock file, which is made on first use, and yield True; the kernel frees it when the process ends.

    Where another process has the lock, wait for it, or without `wait` yield False. With `shared`, processes that share
    it hold it together. With `sign`, the file says who holds it, see `holder`.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        mine = True
        with storage_errors(path):
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                mine = False
        if mine and sign:
            with suppress(OSError):  # on a full disk it stays unsigned
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield mine
    finally:
        os.close(descriptor)  # frees the lock


def holder(path: Path) -> str:
    """Who holds a lock, or held it last: "process 123 on its-host"; "another process" where it is not signed."""
    with suppress(OSError, ValueError):
        return path.read_text()[:200].strip() or "another process"
    return "another process"


@contextmanager
def in_use(run_dir: Path) -> Iterator[None]:
    """Hold a run's lock together with all others that use the run; wait while `sweep` holds it alone.

    A folder that is missing or read-only needs no lock: nothing in it can be swept.
    """
    if not os.access(run_dir, os.W_OK):
        yield
    else:
        with locked(run_dir / RUN_LOCK, wait=True, shared=True):
            yield
