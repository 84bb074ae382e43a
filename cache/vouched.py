"""A record that vouches for the files beside it: how a trained network and a result are kept, outside the products.

The files come first, then the sealed JSON that says what they are and names them with size and SHA-256.
"""

import hashlib
from pathlib import Path

from cache.commit import read_sealed, seal, write_file
from cache.errors import DamagedError

RECORDS = ("models/*/base.json", "models/*/model.json", "results/*.json")  # places of such records in a run folder


def write_vouched(record: Path, facts: dict, files: dict[str, bytes]) -> None:
    """Write files into the record's folder, and the record last.

    Args:
        record: where the record belongs.
        facts: plain JSON for people and stages.
        files: content by name.
    """
    for name, data in files.items():
        write_file(record.parent / name, data)
    entries = [
        {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    ]
    write_file(record, seal(facts | {"files": entries}))


def read_vouched(record: Path, *names: str) -> dict:
    """The facts of a record, which must hold these names. Says nothing about the files, see `read_file`.

    Raises:
        DamagedError: as `read_sealed`.
    """
    facts = read_sealed(record, "files", *names)
    del facts["files"]
    return facts


def read_file(record: Path, name: str) -> bytes:
    """The content of a file that the record names.

    Raises:
        DamagedError: it is missing, or not what was written.
    """
    known = {file["name"]: file["sha256"] for file in read_sealed(record, "files")["files"]}
    path = record.parent / name
    if name not in known:
        raise DamagedError(f"{record} names no {name}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != known[name]:
        raise DamagedError(f"{path} does not have the SHA-256 that {record.name} says")
    return data
