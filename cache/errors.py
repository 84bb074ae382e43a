"""The errors that the cache raises on purpose. Each message names the file, the field and the reason."""

from pathlib import Path


def relative_to(path: Path | str) -> str:
    """Say, behind the name of a path that is not there, what it is relative to; "" for an absolute or empty one."""
    if not str(path) or Path(path).is_absolute():
        return ""
    return f" (relative to {Path.cwd()}, where the command was started)"


class CacheError(Exception):
    """Base class of all errors of the cache."""

    exit_code = 4  # of a command that ends with this error


class StaleCacheError(CacheError):
    """What lies on disk was made from other settings or another plan; the message names the field."""

    exit_code = 6


class NotDoneError(CacheError):
    """The row or unit has no commit record, or its video was skipped."""


class DamagedError(CacheError):
    """A committed file is missing, has another size or checksum, or is not what this package writes."""


class StorageError(CacheError):
    """The file system refused: full, over quota, read-only, I/O error. What is committed stays."""

    exit_code = 5


class UnitTakenError(StorageError):
    """In object storage another worker is at work on the unit, or died in the middle of it; others can be done."""


class StoreAmbiguousError(CacheError):
    """Several stores fit; the message lists them."""


class NoStoreError(CacheError):
    """No store fits; the message lists what there is."""
