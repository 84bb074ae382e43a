"""Files that appear whole or not at all, and locks that the kernel frees when their process ends.

A file is written under a temporary name, fsynced, and renamed (or linked, where exactly one writer may win); then its
directory is fsynced. Only new files that a record will name, see `write_files`, need no temporary name. Whatever writes
or locks raises StorageError where the file system refuses.
"""

import fcntl
import os
import socket
import threading
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from cache.errors import StorageError
from cache.layout import RUN_LOCK

OPEN_DIRECTORIES = 64  # at most, that a process keeps open to fsync them again
_in_use = threading.local()  # the run folders that a thread uses


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


class _Directory:
    """A directory that stays open as long as something refers to this."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self.descriptor)


_opened = lru_cache(maxsize=OPEN_DIRECTORIES)(_Directory)
close_directories = _opened.cache_clear


def _sync_again(path: Path) -> None:
    """Fsync a directory like `sync_directory`, and keep it open for its next new name, until `close_directories`."""
    directory = _opened(path)
    if not os.fstat(directory.descriptor).st_nlink:  # it was deleted, and made again
        close_directories()
        directory = _opened(path)
    os.fsync(directory.descriptor)


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
        sync_directory(path.parent)


def write_files(root: Path, files: dict[str, bytes]) -> None:
    """Write files, content by name below root, that nobody reads until a record names them; make folders they lack.

    A file that is there is replaced as by `write_file`. A new one gets its name at once, so a kill may leave a part of
    it. Root is there, and its own name is durable. At the end every folder is fsynced once: each one has, or may have
    since a writer was killed, a new name in it.
    """
    folders = {root}
    for name, data in files.items():
        path = root / name
        with storage_errors(path):
            for folder in [root / below for below in reversed(Path(name).parents[:-1])]:
                if folder not in folders:
                    with suppress(FileExistsError):
                        os.mkdir(folder)
                    folders.add(folder)
            try:
                _write_new(path, data)
            except FileExistsError:
                with _temporary(path, data) as temporary:
                    os.replace(temporary, path)
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with storage_errors(folder):
            _sync_again(folder)


def write_once(path: Path, data: bytes) -> bool:
    """Create a file if it is absent; return whether this call did. Of several processes exactly one does."""
    with storage_errors(path), _temporary(path, data) as temporary:
        first = True
        try:
            os.link(temporary, path)
        except FileExistsError:
            first = False
        temporary.unlink(missing_ok=True)
        _sync_again(path.parent)
        return first


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """Write a durable temporary file beside path, which the caller renames; delete it after an error."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write_new(temporary, data)
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_new(path: Path, data: bytes) -> None:
    """Write and fsync a file that is not there yet, or raise FileExistsError; after another error it is empty."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        raise
    finally:
        os.close(descriptor)


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

    A folder that is missing or read-only needs no lock: nothing in it can be swept. Nor does one that this thread uses
    already, nor a file, which is refused where the folder is read.
    """
    held = _in_use.__dict__.setdefault("folders", set())
    if run_dir in held or not os.access(f"{run_dir}/", os.W_OK):
        yield
        return
    with locked(run_dir / RUN_LOCK, wait=True, shared=True):
        held.add(run_dir)
        try:
            yield
        finally:
            held.remove(run_dir)
