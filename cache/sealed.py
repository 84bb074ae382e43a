"""A record that vouches for the files beside it: how a trained network and a result are kept, outside the products.

The files come first, then the sealed JSON that says what they are and names them with size and SHA-256.
"""

import hashlib
import json
from pathlib import Path

from cache.commit import write_file
from cache.errors import DamagedError
from cache.fingerprint import canonical


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
