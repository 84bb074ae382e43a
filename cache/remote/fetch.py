"""Downloads from object storage: tried a few times, compared with what the records say, and kept in the file cache."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cache.commit import storage_errors
from cache.errors import CacheError, DamagedError, StorageError
from cache.remote import file_cache
from cache.sealed import read_sealed, recorded_files

MARK = ".remote.json"  # in a mirror: the URL of its run
ATTEMPTS = 4
PAUSE_SECONDS = 0.5  # before the second attempt; doubled before each further one
BLOCK = 500  # files of one request


def is_url(run) -> bool:
    """Whether a run is given as a URL, such as s3://bucket/runs/x, and not as a folder."""
    return "://" in str(run)


@dataclass(frozen=True)
class Remote:
    """A run in object storage, and the local folder that is its mirror, see `cache.remote.mirror`."""

    url: str
    folder: Path
    writes: bool = False  # it is a working folder, see `cache.remote.publish`

    def url_of(self, path: Path) -> str:
        """The URL of a file of the mirror."""
        return f"{self.url}/{path.relative_to(self.folder).as_posix()}"

    def fetch(self, path: Path, num_bytes: int, sha256: str) -> None:
        """Download a file of the mirror, unless this machine has it; path becomes a link into the file cache.

        DamagedError where there is no such object, or it arrives every time with other bytes than its record says;
        StorageError where the download fails every time.
        """
        url = self.url_of(path)

        def whole(data: bytes) -> bool:
            return len(data) == num_bytes and hashlib.sha256(data).hexdigest() == sha256

        if path.is_file() and not path.is_symlink() and whole(path.read_bytes()):  # downloaded with the records
            return
        content = file_cache.find(sha256, num_bytes)
        if content is None:
            ((_, data),) = get_all({url: whole})
            content = file_cache.keep(sha256, data)
        if not path.is_symlink() or path.readlink() != content:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                link = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
                os.symlink(content, link)
                os.replace(link, path)  # other processes may do the same


def remote_of(folder: Path) -> Remote | None:
    """The run that a folder is the mirror of; None where the folder is no mirror."""
    mark = folder / MARK
    if not mark.exists():
        return None
    content = read_sealed(mark, "url")
    return Remote(content["url"], folder, content.get("writes", False))


def fetch_recorded_files(record: Path) -> None:
    """Download the files that a record models/<name>/<record> names, where it lies in a mirror; see `Remote.fetch`."""
    if remote := remote_of(record.parents[2]):
        for file in recorded_files(record):
            remote.fetch(record.parent / file["name"], file["bytes"], file["sha256"])


def get_all(checks: dict[str, Callable[[bytes], bool]]) -> Iterator[tuple[str, bytes]]:
    """Download files and yield (URL, bytes); what fails, or fails its check, is requested ATTEMPTS times.

    Raises as `Remote.fetch`.
    """
    urls = list(checks)
    for first in range(0, len(urls), BLOCK):
        waiting, why = urls[first : first + BLOCK], {}
        for _ in attempts():
            system, _ = storage(waiting[0])
            paths = {system._strip_protocol(url): url for url in waiting}
            for path, data in system.cat(list(paths), on_error="return").items():
                url = paths[path]
                if isinstance(data, FileNotFoundError):
                    raise DamagedError(f"{url}: no such object, and a record names it") from data
                if isinstance(data, Exception):
                    why[url] = StorageError(f"{url}: {data!r}, {ATTEMPTS} times")
                elif not checks[url](data):
                    why[url] = DamagedError(f"{url}: arrived as something else than was written, {ATTEMPTS} times")
                else:
                    why.pop(url, None)
                    yield url, data
            waiting = list(why)
            if not waiting:
                break
        for error in why.values():
            raise error


def attempts(number: int = ATTEMPTS) -> Iterator[None]:
    """Yield as often as something is to be tried; wait before each time but the first, longer and longer."""
    for attempt in range(number):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        yield


def entries(system, path: str, url: str) -> list[dict]:
    """What fsspec lists in a folder; nothing where it is missing, for object storage has no empty folders."""
    for _ in attempts():
        try:
            return system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:  # each driver raises errors of its own libraries
            last = error
    raise StorageError(f"{url}: {last!r}, {ATTEMPTS} times") from last


def storage(url: str):
    """fsspec's file system for a URL, and the path in it; CacheError where there is no driver for the URL."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except ImportError as error:
        raise CacheError(f"{url}: {error}; pip install -e '.[s3]' for s3://") from error
    except ValueError as error:
        raise CacheError(f"{url}: {error}") from error
