"""The commit protocol: files that appear whole or not at all, sealed JSON, and locks that the kernel frees.

Data is written to a temporary name, fsynced and renamed (or linked, where exactly one writer may win); its directory is
fsynced. Both stores, the plan and the checkpoints of training write through this module alone.
"""

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.errors import StorageError


@contextmanager
def storage_errors(path: Path):
    """Turn whatever the file system refuses into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def sync_directory(path: Path):
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(files: list[Path], root: Path):
    """Fsync files that somebody else wrote, and every directory from theirs up to root, deepest first."""
    folders = {root}
    for file in files:
        with storage_errors(file), open(file, "rb") as handle:
            os.fsync(handle.fileno())
        folders |= {root / folder for folder in file.relative_to(root).parents}
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with storage_errors(folder):
            sync_directory(folder)


def write_file(path: Path, data: bytes):
    """Write or replace a file so that a reader, a kill or a power cut sees the old or the new one, never a mixture."""
    with storage_errors(path), _temporary(path, data) as temporary:
        os.replace(temporary, path)


def write_once(path: Path, data: bytes) -> bool:
    """Create a file atomically if it is absent. Returns whether this call made it; of several exactly one does."""
    with storage_errors(path), _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


@contextmanager
def _temporary(path: Path, data: bytes):
    """A durable file with the data beside path, gone on exit; then the directory is made durable."""
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
def locked(path: Path, wait: bool = False, shared: bool = False, sign: bool = False):
    """Hold the lock file at path. Yields whether it is ours: without `wait`, False when somebody else holds it.

    The kernel frees it when its process ends, however it ends. With `sign` the file says who has it, see `holder`.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            with storage_errors(path):
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            mine = True
        except StorageError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            mine = False
        if mine and sign:
            _sign(descriptor)
        yield mine
    finally:
        os.close(descriptor)  # frees the lock


def holder(path: Path) -> str:
    """Who holds, or last held, the lock: "process 123 on its host"; "another process" where the file does not say."""
    try:
        return path.read_text()[:200].strip() or "another process"
    except (OSError, ValueError):
        return "another process"


def _sign(descriptor: int):
    """Leave a name in a lock that is ours. A disk too full for it does not matter here."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError:
        pass


@contextmanager
def in_use(run_dir: Path) -> Iterator[None]:
    """Hold the run lock as one of many; wait while `sweep` holds it alone.

    A folder that is not there yet, or that only can be read, needs no lock: nothing in it can be swept up from here.
    """
    if not os.access(run_dir, os.W_OK):
        yield
        return
    with locked(run_dir / ".lock", wait=True, shared=True):
        yield
