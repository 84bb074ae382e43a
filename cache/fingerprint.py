"""Fingerprints of settings and of files, and the fields in which two settings differ."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

ABSENT = "(absent)"


def canonical(settings) -> str:
    """JSON with sorted keys and no whitespace: the same text for the same settings.

    ValueError for NaN and infinity, TypeError for what is not plain JSON (a NumPy number, a path).
    """
    return json.dumps(settings, sort_keys=True, allow_nan=False, separators=(",", ":"))


def fingerprint(settings: dict) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()[:16]


def differences(a: dict, b: dict) -> list[str]:
    """Fields in which a and b differ, such as "boxes.size: 128 != 96"; none exactly when the fingerprints are equal."""
    found = []
    for name in sorted(a.keys() | b.keys()):
        left, right = a.get(name, ABSENT), b.get(name, ABSENT)
        if isinstance(left, dict) and isinstance(right, dict):
            found += [f"{name}.{line}" for line in differences(left, right)]
        elif (name in a) != (name in b) or canonical(left) != canonical(right):
            found.append(f"{name}: {left} != {right}")
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged_sha256(path: Path, found: os.stat_result | None = None) -> str:
    """As `file_sha256`, but read again only where size, time of change or inode (`found`, of os.stat) changed."""
    found = found or os.stat(path)
    return _sha256_of_version(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=1 << 16)
def _sha256_of_version(path: Path, *version: int) -> str:
    return file_sha256(path)
