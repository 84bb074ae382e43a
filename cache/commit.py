"""The commit protocol: files that appear whole or not at all, sealed JSON, and locks that the kernel frees.

Data is written to a temporary name, fsynced and renamed (or linked, where exactly one writer may win); its directory is
fsynced. Both stores, the plan and the checkpoints of training write through this module alone.
"""

import fcntl
import hashlib
import json
import os
import socket
import uuid
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from cache.errors import DamagedError, StorageError
from cache.fingerprint import canonical


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


def seal(content: dict) -> bytes:
    """JSON text that vouches for itself: its field sha256 is that of all others in canonical form."""
    text = json.dumps(_sealed(content), indent=1, sort_keys=True, allow_nan=False)
    return f"{text}\n".encode()


def read_sealed(path: Path, *names: str) -> dict:
    """What `seal` wrote, without its checksum.

    Raises:
        DamagedError: the file is missing, differs from what was written in any bit, or lacks one of the fields.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: {error}") from error
    return parse_sealed(data, path, *names)


def parse_sealed(data: bytes, path: Path | str, *names: str) -> dict:
    """As `read_sealed`, of bytes that are at path."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or not set(names) <= content.keys():
            raise DamagedError(f"{path} lacks one of {', '.join(names)}")
        content.pop("sha256", None)
        whole = data == seal(content)
    except (ValueError, RecursionError) as error:  # seal refuses what no JSON of ours holds, such as NaN
        raise DamagedError(f"{path}: {error}") from error
    if not whole:
        raise DamagedError(f"{path} is not what was written: its checksum does not fit")
    return content


def _sealed(content: dict) -> dict:
    return content | {"sha256": hashlib.sha256(canonical(content).encode()).hexdigest()}


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged_sha256(path: Path) -> str:
    """`file_sha256`, read once in a process as long as the file's size, time of change and inode stay the same."""
    stat = os.stat(path)
    return _sha256_of_version(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=1 << 16)
def _sha256_of_version(path: Path, *version: int) -> str:
    return file_sha256(path)
