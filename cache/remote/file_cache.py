"""Files brought from elsewhere, kept by content up to a number of bytes; the least recently used ones go first."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from cache.commit import locked, storage_errors, write_file

SPARED_SECONDS = 60  # used as recently, a file stays whatever the limit says: somebody is about to open it
STALE_SECONDS = 3600  # a temporary file as old was left by a writer that was killed
_brought = {}  # folder -> bytes this process has brought since it last looked at the limit


def local_folder() -> Path:
    """$FOCUSED_ATTENTION_CACHE, or a folder in the user's ~/.cache."""
    return Path(os.environ.get("FOCUSED_ATTENTION_CACHE") or Path.home() / ".cache" / "focused-attention")


def limit() -> int:
    """Bytes of files to keep: $FOCUSED_ATTENTION_CACHE_GB, or 50 gigabytes."""
    return int(float(os.environ.get("FOCUSED_ATTENTION_CACHE_GB", "50")) * 1e9)


def held(sha256: str, num_bytes: int) -> Path | None:
    """Where the file with this content is, from now on recently used; None where it is not, or not in full."""
    path = _place(sha256)
    try:
        found = path.stat()
        if found.st_size == num_bytes:
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
            return path
    except FileNotFoundError:
        pass
    return None


def keep(sha256: str, data: bytes) -> Path:
    """Keep a file, whose content has been compared. Any number of processes may keep the same one at once."""
    path = _place(sha256)
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    _make_room(path.parents[1], len(data))
    write_file(path, data)
    return path


def _place(sha256: str) -> Path:
    return local_folder() / "files" / sha256[:2] / sha256


def _make_room(folder: Path, num_bytes: int) -> None:
    """Delete until so many more bytes fit. To look costs time: a process does so after every hundredth of the limit."""
    due = _brought.get(folder, limit()) + num_bytes
    _brought[folder] = due
    if due < limit() / 100:
        return
    with locked(folder / ".lock") as mine:
        if not mine:  # somebody else is at it
            return
        _brought[folder] = 0
        files = sorted(_files(folder))
        size, now = sum(size for _, size, _ in files) + num_bytes, time.time()
        for used, file_size, path in files:
            temporary = path.endswith(".tmp")
            if now - used > (STALE_SECONDS if temporary else SPARED_SECONDS) and (temporary or size > limit()):
                with storage_errors(Path(path)):
                    Path(path).unlink(missing_ok=True)
                size -= file_size


def _files(folder: Path) -> Iterator[tuple[float, int, str]]:
    """(time of last use, bytes, path) of every file that is kept."""
    for group in os.scandir(folder):
        for entry in os.scandir(group.path) if group.is_dir() else ():
            try:
                found = entry.stat()
            except FileNotFoundError:  # another process made room
                continue
            yield found.st_atime, found.st_size, entry.path
