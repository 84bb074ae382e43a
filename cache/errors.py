"""Errors of the cache: every refusal is one of these and names the file, the field and the reason."""


class CacheError(Exception):
    """Base of every error the cache raises on purpose.

    Attributes:
        exit_code: what a command ends with.
    """

    exit_code = 4


class StaleCacheError(CacheError):
    """What lies on disk was made from other settings or another plan; the message names the field."""

    exit_code = 6


class NotDoneError(CacheError):
    """No commit record vouches for the row or unit, or its video was skipped."""


class DamagedError(CacheError):
    """A committed file is missing, has another size, fails its checksum, or is not what we write."""


class StorageError(CacheError):
    """The file system refused: full, over quota, read-only, I/O error. What is committed stays."""

    exit_code = 5


class StoreAmbiguousError(CacheError):
    """Several stores fit; the message lists them."""


class NoStoreError(CacheError):
    """No store fits; the message lists what there is."""
