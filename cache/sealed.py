"""Sealed JSON, which carries a checksum of itself, and records: sealed JSON that names files with size and SHA-256.

A trained network and a result are files with a record beside them, which is written last.
"""

import hashlib
import json
from pathlib import Path

from cache.commit import storage_errors, sync_directory, write_file
from cache.errors import DamagedError, StorageError
from cache.fingerprint import canonical
from cache.layout import SHA256, is_file_name


def write_record(record: Path, facts: dict, files: dict[str, bytes]) -> None:
    """Write files, content by name, into the folder of the record; then the record, with facts in plain JSON.

    A record that says something else is deleted first: none ever names a file that is being replaced.
    """
    entries = [file_entry(name, data) for name, data in files.items()]
    sealed = seal(facts | {"files": entries})
    if record.exists() and record.read_bytes() != sealed:
        with storage_errors(record):
            record.unlink(missing_ok=True)
            sync_directory(record.parent)
    for name, data in files.items():
        write_file(record.parent / name, data)
    write_file(record, sealed)


def file_entry(name: str, data: bytes) -> dict:
    """What a record says of a file."""
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def recorded_files(record: Path, content: dict | None = None) -> list[dict]:
    """The files that a record names, each as name, bytes and sha256; `content` is the record where it is read already.

    DamagedError as `read_sealed`, and where an entry is not all of these, or a name leads out of the record's folder.
    """
    files = (content or read_sealed(record, "files"))["files"]
    for file in files if isinstance(files, list) else [None]:
        if not isinstance(file, dict) or not is_file_name(file.get("name")):
            raise DamagedError(f"{record} names a file outside its directory, or none: {file!r:.200}")
        if type(file.get("bytes")) is not int or not SHA256.fullmatch(str(file.get("sha256"))):
            raise DamagedError(f"{record}: {file['name']} has no size and SHA-256 in it: {file!r:.200}")
    return files


def read_record(record: Path, *names: str) -> dict:
    """The facts of a record, which must have the fields `names`, without its files. Raises as `read_sealed`."""
    facts = read_sealed(record, "files", *names)
    del facts["files"]
    return facts


def read_recorded_file(record: Path, name: str) -> bytes:
    """The content of a file that the record names. Raises as `read_sealed`."""
    known = {file["name"]: file["sha256"] for file in recorded_files(record)}
    path = record.parent / name
    if name not in known:
        raise DamagedError(f"{record} names no {name}")
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != known[name]:
        raise DamagedError(f"{path} does not have the SHA-256 that {record.name} says")
    return data


def read_bytes(path: Path) -> bytes:
    """Read a committed file.

    DamagedError where it is missing. StorageError where the file system does not give it: another user's permissions,
    a network that is away. That proves no damage, so nothing is moved, deleted or made anew because of it.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def seal(content: dict) -> bytes:
    """JSON text with a field sha256: the checksum of all other fields in canonical form."""
    sealed = content | {"sha256": hashlib.sha256(canonical(content).encode()).hexdigest()}
    return f"{json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False)}\n".encode()


def seal_line(content: dict) -> bytes:
    """As `seal`, in one line."""
    return f"{canonical(content | {'sha256': hashlib.sha256(canonical(content).encode()).hexdigest()})}\n".encode()


def read_sealed(path: Path, *names: str) -> dict:
    """Read what `seal` or `seal_line` made, without its checksum.

    DamagedError where the file is missing, differs in any bit from what was written, or lacks a field of `names`;
    StorageError as `read_bytes`.
    """
    return parse_sealed(read_bytes(path), path, *names)


def is_sealed(data: bytes) -> bool:
    """Whether bytes are what `seal` made."""
    try:
        return bool(parse_sealed(data, ""))
    except DamagedError:
        return False


def parse_sealed(data: bytes, path: Path | str, *names: str) -> dict:
    """As `read_sealed`, for the bytes of a file; the path is for messages."""
    try:
        content = json.loads(data)
        if not isinstance(content, dict) or not set(names) <= content.keys():
            raise DamagedError(f"{path} lacks one of {', '.join(names)}")
        content.pop("sha256", None)
        whole = data == (seal if data.count(b"\n") > 1 else seal_line)(content)
    except (ValueError, RecursionError) as error:  # `seal` refuses what it never writes, such as NaN
        raise DamagedError(f"{path}: {error}") from error
    if not whole:
        raise DamagedError(f"{path} is not what was written: its checksum does not fit")
    return content
