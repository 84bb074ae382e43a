"""Commits: atomic files, locks that the kernel frees, and one directory per product with its `done` records.

A product directory is <run>/<product>/<key>/ with run.json (what it was made from), locks/ and done/. Data is written
and fsynced first; the record done/<unit>.json comes last. Readers trust records, never the mere presence of data.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import uuid
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import numpy as np

from cache.errors import DamagedError, NotDoneError, StaleCacheError, StorageError
from cache.fingerprint import canonical, differences, fingerprint

FORMAT = 1
PRODUCTS = ("base", "maps", "boxes", "context", "crops")
log = logging.getLogger(__name__)


@contextmanager
def storage_errors(path: Path):
    """Turn whatever the file system refuses into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error


def sync_directory(path: Path):
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(file: Path, root: Path):
    """Fsync a file that somebody else wrote, and every directory from its own up to root."""
    with storage_errors(file):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
        for folder in file.relative_to(root).parents:  # the last one is "."
            sync_directory(root / folder)


def write_file(path: Path, data: bytes):
    """Write or replace a file so that a reader, a kill or a power cut sees the old or the new one, never a mixture."""
    with storage_errors(path), _temporary(path, data) as temporary:
        os.replace(temporary, path)


def write_once(path: Path, data: bytes) -> bool:
    """Create a file atomically if it is absent. Returns whether this call made it; of several exactly one does."""
    with storage_errors(path), _temporary(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True


@contextmanager
def _temporary(path: Path, data: bytes):
    """A durable file with the data beside path, gone on exit; then the directory is made durable."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait: bool = False):
    """Hold the lock file at path. Yields whether it is ours: without `wait`, False when somebody else holds it."""
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            with storage_errors(path):
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            mine = True
        except StorageError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            mine = False
        yield mine
    finally:
        os.close(descriptor)  # frees the lock


def open_product(root: Path, product: str, part, settings: dict) -> "ProductDir":
    """Open the directory of a product of one plan part, made on first use.

    Args:
        root: the run folder.
        product: one of PRODUCTS.
        part: the cache.plan.Part whose rows the product holds.
        settings: plain JSON, everything that can change the product's bytes, with the settings of what it is made from.
    Raises:
        StaleCacheError: the run.json that stands there differs; names the field.
    """
    if product not in PRODUCTS:
        raise ValueError(f"product {product!r}, allowed: {', '.join(PRODUCTS)}")
    run = {
        "product": product,
        "format": FORMAT,
        "part": part.name,
        "rows_sha256": part.rows_sha256,
        "settings": json.loads(canonical(settings)),
    }
    path = Path(root) / product / fingerprint(run)
    file = path / "run.json"
    with storage_errors(path):
        for folder in (path / "done", path / "locks"):
            folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_once(file, (json.dumps(run, indent=2, sort_keys=True) + "\n").encode())
        for folder in (path.parent, path.parent.parent):
            sync_directory(folder)
    if wrong := differences(_read_json(file), run):
        raise StaleCacheError(f"{file}: {wrong[0]}")
    return ProductDir(path, part, run)


def read_product(path: Path, parts: dict) -> "ProductDir":
    """Open a product directory that exists, of one of the plan's parts by name.

    Raises:
        StaleCacheError: run.json names another format, part or plan, or is not the one its directory is named after.
        DamagedError: run.json is missing or unreadable.
    """
    file = path / "run.json"
    run = _read_json(file, "product", "format", "part", "rows_sha256", "settings")
    if run["part"] not in parts:
        raise StaleCacheError(f"{file}: part: {run['part']}, the plan has {', '.join(parts)}")
    part = parts[run["part"]]
    if wrong := differences(run, run | {"format": FORMAT, "rows_sha256": part.rows_sha256}):
        raise StaleCacheError(f"{file}: {wrong[0]}")
    if fingerprint(run) != path.name:
        raise StaleCacheError(f"{file}: its fingerprint is {fingerprint(run)}, its directory's name {path.name}")
    return ProductDir(path, part, run)


class ProductDir:
    """One product of one plan part: which units are done, and how a unit becomes done.

    Attributes:
        path: the directory. part: the plan part. product, key, settings: as in run.json.
    """

    def __init__(self, path: Path, part, run: dict):
        self.path, self.part = path, part
        self.product, self.settings, self.key = run["product"], run["settings"], path.name
        self._vouched = {}  # unit -> record whose files were found; records never change, so they are kept

    def done(self, unit: int) -> dict | None:
        """The commit record of a unit, or None. Says nothing about the files; `vouch` does."""
        path = self._record_path(unit)
        if not path.exists():
            return None
        record = _read_json(path, "unit", "key", "files", "rows", "skipped")
        if (record["unit"], record["key"]) != (unit, self.key):
            raise DamagedError(f"{path} is the record of unit {record['unit']} of {record['key']}")
        for file in record["files"]:
            name = PurePosixPath(file["name"])
            if name.is_absolute() or ".." in name.parts:
                raise DamagedError(f"{path} names a file outside its directory: {name}")
        return record

    def todo(self) -> list[int]:
        """Units without a record, from one look at the names in done/."""
        names = {entry.name for entry in os.scandir(self.path / "done")}
        return [unit for unit in range(self.part.num_units) if f"{unit:06d}.json" not in names]

    @contextmanager
    def lock(self, unit: int):
        """Yields whether the unit is ours to do: False when another process holds it or it is done by now."""
        with locked(self.path / "locks" / f"{unit:06d}") as mine:
            yield mine and not self._record_path(unit).exists()

    def commit(self, unit: int, files: list[Path], status: str = "ok", skipped=(), versions=None, **extra) -> bool:
        """Make the files durable and publish the unit's record; last thing to happen to a unit.

        Args:
            files: complete files inside the directory.
            status: a word for people; readers go by `skipped`.
            skipped: one {"video_id", "error", "detail"} per video that failed; its rows do not count as done.
            versions: of libraries besides Python and NumPy that made the data.
            extra: more plain JSON for the record. No times and no hosts: records are equal from run to run.
        Returns:
            False when somebody else published this unit first.
        """
        rows = self.part.unit_rows(unit)
        known = {self.part.video_ids[row] for row in rows}
        if unknown := [skip["video_id"] for skip in skipped if skip["video_id"] not in known]:
            raise ValueError(f"{self.path}: skipped videos {unknown} are not in unit {unit}")
        record = extra | {
            "unit": unit,
            "status": status,
            "files": [_durable_entry(file, self.path) for file in files],
            "rows": [rows.start, rows.stop],
            "key": self.key,
            "skipped": list(skipped),
            "versions": _versions() | (versions or {}),
        }
        path = self._record_path(unit)
        first = write_once(path, (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
        if not first:
            log.warning("%s was published by another process first", path)
        return first

    def vouch(self, unit: int) -> dict:
        """The record of a unit whose files are there in full size.

        Raises:
            NotDoneError: no record. DamagedError: a file is missing or has another size.
        """
        if unit not in self._vouched:
            record = self.done(unit)
            if record is None:
                raise NotDoneError(f"unit {unit} of {self.product}/{self.key} ({self.part.name}) is not done")
            for file in record["files"]:
                path = self.path / file["name"]
                if not path.is_file() or path.stat().st_size != file["bytes"]:
                    raise DamagedError(f"{path} is missing or not {file['bytes']} bytes, as its record says")
            self._vouched[unit] = record
        return self._vouched[unit]

    def vouch_row(self, row: int) -> dict:
        """The record that vouches for a local row. Raises as `vouch`, and NotDoneError for a skipped video."""
        unit = row // self.part.rows_per_unit
        record = self.vouch(unit)
        for skip in record["skipped"]:
            if skip["video_id"] == self.part.video_ids[row]:
                raise NotDoneError(f"row {row} of {self.part.name}: {skip['video_id']} was skipped, {skip['error']}")
        return record

    def rows_done(self) -> np.ndarray:
        """bool (num_rows,): the local rows that a record vouches for."""
        done = np.zeros(self.part.num_rows, bool)
        for unit in sorted(set(range(self.part.num_units)) - set(self.todo())):
            rows = self.part.unit_rows(unit)
            skipped = {skip["video_id"] for skip in self.vouch(unit)["skipped"]}
            done[rows.start : rows.stop] = [self.part.video_ids[row] not in skipped for row in rows]
        return done

    def verify(self, unit: int):
        """Read every file of a done unit and compare its SHA-256. Raises NotDoneError or DamagedError."""
        for file in self.vouch(unit)["files"]:
            if _sha256(self.path / file["name"]) != file["sha256"]:
                raise DamagedError(f"{self.path / file['name']} does not have the SHA-256 of its record")

    def _record_path(self, unit: int) -> Path:
        return self.path / "done" / f"{unit:06d}.json"


def _durable_entry(file: Path, root: Path) -> dict:
    """Make a file durable; its entry for the record."""
    make_durable(file, root)
    name = file.relative_to(root).as_posix()
    return {"name": name, "bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path, *names: str) -> dict:
    """A JSON object that has at least these fields."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not set(names) <= content.keys():
        raise DamagedError(f"{path} lacks one of {', '.join(names)}")
    return content


@cache
def _versions() -> dict:
    return {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "zarr", "h5py")}
