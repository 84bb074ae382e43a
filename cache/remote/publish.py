"""Writing a run in object storage: a put makes an object whole or not at all, and replaces none (If-None-Match).

The files of a unit are put first, its commit record last. So of several workers exactly one publishes a unit, and what
a worker left without a record counts for nothing.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from cache import commit
from cache.errors import CacheError, DamagedError, StaleCacheError, StorageError, UnitTakenError
from cache.fingerprint import differences
from cache.remote import file_cache
from cache.remote.fetch import Remote, attempts, get_all, storage
from cache.remote.mirror import mirror
from cache.sealed import is_sealed, parse_sealed

WRITABLE = ("s3",)  # schemes of URLs; tests show that their driver can refuse to replace an object
PUTS = 7  # attempts; with the pauses between them about half a minute
PROBE = ".put-once"  # an object that every writer tries to put
ABANDONED_SECONDS = 3600  # a file that is older, of a unit without a record, was left by a worker that died
SLOWEST_SECONDS = 900  # from a unit's first file to its record; S3 refuses clocks that are wrong by more than that
log = logging.getLogger(__name__)


def working_folder(url: str) -> Path:
    """Make or update the local folder in which units of a run in object storage are computed; return it.

    CacheError where the storage is of a kind that cannot refuse to replace an object, StorageError where it does not;
    else raises as `mirror`.
    """
    url = str(url).rstrip("/")
    instead = "write to a local run folder, and copy it there"
    if url.partition("://")[0] not in WRITABLE:
        kinds = ", ".join(f"{one}://" for one in WRITABLE)
        raise CacheError(f"{url}: only {kinds} is known to put an object without replacing another one; {instead}")
    folder = mirror(url, writes=True)
    if all(put_once(f"{url}/{PROBE}", b"Who writes here has tried that no put replaces this.\n") for _ in range(2)):
        why = "its server, or s3fs before 2024.12, ignores If-None-Match, and so replaces what another worker has put"
        raise StorageError(f"{url}: {why}; {instead}")
    return folder


def put_once(url: str, data: bytes) -> bool:
    """Create an object; return False where one is there, perhaps put by an attempt of this call whose answer was lost.

    StorageError where the storage refuses every time.
    """
    system, path = storage(url)
    for _ in attempts(PUTS):
        try:
            system.pipe_file(path, data, mode="create")
            return True
        except Exception as error:  # each driver raises errors of its own libraries
            if _says_it_is_there(error):
                return False
            last = error
    raise StorageError(f"{url}: {last!r}, {PUTS} times") from last


def _says_it_is_there(error: Exception) -> bool:
    """Whether a put was refused because an object is there; not every server says which condition failed."""
    answer = getattr(error.__cause__, "response", {})
    return isinstance(error, FileExistsError) or answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


def _get(url: str, check: Callable[[bytes], bool]) -> bytes:
    """Download a file, see `get_all`, which may be newer than what this process has listed."""
    storage(url)[0].invalidate_cache()
    ((_, data),) = get_all({url: check})
    return data


def _holds(url: str, data: bytes) -> bool:
    """Whether a file is there and has this content."""
    try:
        return _get(url, data.__eq__) is not None
    except DamagedError:
        return False


class Publisher:
    """Writes the files of a product where its run is in object storage, as `cache.commit` does in a folder.

    Paths are those in the run's working folder. Raises StorageError as `put_once`.
    """

    def __init__(self, remote: Remote):
        self.remote, self._record, self._begun = remote, None, 0.0

    def begin(self, record: Path) -> None:
        """Begin a unit, by the path of its record, which is downloaded where another worker has published it."""
        self._record, self._begun = record, 0.0
        if there := self._get_record(record):
            commit.write_once(record, there)

    def write_files(self, root: Path, files: dict[str, bytes]) -> None:
        """Put files of a unit, content by name below root, and keep them in the file cache, for they may be read next.

        UnitTakenError where another worker has put other bytes, and may be about to put its record.
        """
        self._begun = self._begun or time.time()
        for name, data in files.items():
            if not put_once(self.remote.url_of(root / name), data):
                self._take_over(self.remote.url_of(root / name), data)
            file_cache.keep(hashlib.sha256(data).hexdigest(), data)

    def write_once(self, path: Path, data: bytes) -> bool:
        """Put the record of a unit, whose files are there; return whether the one that is there now says the same."""
        if self._begun and time.time() - self._begun > SLOWEST_SECONDS:
            why = f"its files took more than {SLOWEST_SECONDS} s, so another worker may have replaced them"
            raise UnitTakenError(f"{self.remote.url_of(path)}: not published, for {why}; repeat the command")
        there = data if put_once(self.remote.url_of(path), data) else self._get_record(path)
        if there is None:
            raise UnitTakenError(f"{self.remote.url_of(path)} was withdrawn in this moment; repeat the command")
        commit.write_once(path, there)
        for wrong in differences(parse_sealed(there, path), parse_sealed(data, path))[:1]:
            log.warning("%s: another worker published it first, with %.300s", self.remote.url_of(path), wrong)
        return there == data

    def write_equal(self, path: Path, data: bytes) -> None:
        """Put a file that every worker makes alike, and write it locally; StaleCacheError where another is there."""
        url = self.remote.url_of(path)
        if not put_once(url, data) and not _holds(url, data):
            raise StaleCacheError(f"{url} is there with other content; repeat the command, which then compares it")
        commit.write_once(path, data)

    def _get_record(self, path: Path) -> bytes | None:
        """Download a record; None where there is none."""
        try:
            return _get(self.remote.url_of(path), is_sealed)
        except DamagedError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def _take_over(self, url: str, data: bytes) -> None:
        """Put a file that is there again: the same bytes, so that it is new, or others whose worker died.

        UnitTakenError where that one may be alive, or has published the unit.
        """
        system, place = storage(url)
        try:
            found = system.info(place, refresh=True)
            old = time.time() - found["LastModified"].timestamp() > ABANDONED_SECONDS
            if _holds(url, data) or (old and self._record and self._get_record(self._record) is None):
                system.pipe_file(place, data, IfMatch=found["ETag"])
                return
        except Exception as error:
            raise UnitTakenError(f"{url}: {error!r}; repeat the command") from error
        raise UnitTakenError(
            f"{url}: another worker has put other bytes than this one computed, and no record yet; if it died, repeat "
            f"the command {ABANDONED_SECONDS // 60} minutes later, which then replaces them, or delete this object"
        )
