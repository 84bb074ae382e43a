"""Downloaded files, named by their SHA-256; beyond a limit of bytes the least recently used ones are deleted.

Nothing else is: the folder is marked as this program's own, and only names that are made here are deleted from it.
"""

import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path

from cache.commit import locked, storage_errors, write_file
from cache.errors import CacheError, DamagedError
from cache.layout import SHA256

SPARED_SECONDS = 60  # a file used within this time stays, whatever the limit: a process may be about to open it
STALE_SECONDS = 3600  # an older temporary file was left by a killed writer
MARK = ".focused-attention"  # in a folder whose files are deleted here
_FILE = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62}|\.\1[0-9a-f]{62}\.[0-9a-f]{32}\.tmp)")  # all that is made here
_added = {}  # folder -> bytes that this process has added since it last compared all files with the limit


def local_folder() -> Path:
    """$FOCUSED_ATTENTION_CACHE, or a folder in the user's ~/.cache."""
    return Path(os.environ.get("FOCUSED_ATTENTION_CACHE") or Path.home() / ".cache" / "focused-attention").absolute()


def limit() -> int:
    """How many bytes of files to keep: $FOCUSED_ATTENTION_CACHE_GB, or 50 gigabytes; CacheError for another text."""
    text = os.environ.get("FOCUSED_ATTENTION_CACHE_GB") or "50"
    with suppress(ValueError):
        if 0 <= (gigabytes := float(text)) < 1e9:
            return int(gigabytes * 1e9)
    raise CacheError(f"FOCUSED_ATTENTION_CACHE_GB: expected a number of gigabytes, got {text!r}")


def find(sha256: str, num_bytes: int) -> Path | None:
    """The file with this content, marked as just used; None where it is missing or not of this size."""
    path = _place(sha256)
    with suppress(FileNotFoundError):
        found = path.stat()
        if found.st_size == num_bytes:
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
            return path
    return None


def keep(sha256: str, data: bytes) -> Path:
    """Keep a file under its SHA-256, which the caller has checked; several processes may keep the same one at once.

    The first one's stays: another may be opening it, and HDF5 refuses a file that is replaced meanwhile.
    """
    path = _place(sha256)
    with storage_errors(path.parent):
        _claim(path.parents[1])
        path.parent.mkdir(exist_ok=True)
    _make_room(path.parents[1], len(data))
    with locked(path.parents[1] / ".lock", wait=True):
        if find(sha256, len(data)) is None:
            write_file(path, data)
    return path


def _place(sha256: str) -> Path:
    if not SHA256.fullmatch(sha256):
        raise DamagedError(f"{sha256!r:.200} is no SHA-256: no file can be kept under it")
    return local_folder() / "files" / sha256[:2] / sha256


def _claim(folder: Path) -> None:
    """Make the folder and mark it as this program's own; CacheError where it holds something that was not made here."""
    if (folder / MARK).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not (_FILE.fullmatch(name) or re.fullmatch(r"[0-9a-f]{2}", name) or name in (MARK, ".lock")):
            what = f"{folder} holds {name}, which is not a downloaded file"
            raise CacheError(f"{what}; name an empty folder in FOCUSED_ATTENTION_CACHE, now {local_folder()}")
    (folder / MARK).touch()


def _make_room(folder: Path, num_bytes: int) -> None:
    """Delete files until num_bytes more fit. As listing takes time, do so once a hundredth of the limit was added."""
    _added[folder] = _added.get(folder, limit()) + num_bytes
    if _added[folder] < limit() / 100:
        return
    with locked(folder / ".lock") as mine:
        if not mine:  # another process makes room
            return
        _added[folder] = 0
        files = []
        for path in folder.glob("*/*"):
            with suppress(FileNotFoundError):  # deleted by another process
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and _FILE.fullmatch(path.relative_to(folder).as_posix()):
                    files.append((found.st_atime, found.st_size, path))
        size, now = sum(size for _, size, _ in files) + num_bytes, time.time()
        for used, file_size, path in sorted(files):
            temporary = path.suffix == ".tmp"
            if now - used > (STALE_SECONDS if temporary else SPARED_SECONDS) and (temporary or size > limit()):
                with storage_errors(path):
                    path.unlink(missing_ok=True)
                size -= file_size
