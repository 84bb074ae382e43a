"""Products: one directory per product and plan part, with one `done` record per unit.

A product directory is <run>/<product>/<key>/ with run.json (what it was made from), locks/ and done/. Data is written
and fsynced first; the record done/<unit>.json comes last. Readers trust records, never the mere presence of data.
"""

import json
import logging
import os
import platform
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import numpy as np

from cache import commit
from cache.commit import storage_errors, sync_directory
from cache.errors import DamagedError, NoStoreError, NotDoneError, StaleCacheError
from cache.fingerprint import canonical, differences, file_sha256, fingerprint
from cache.layout import PRODUCTS
from cache.remote.fetch import remote_of
from cache.sealed import read_sealed, seal

FORMAT = 2
log = logging.getLogger(__name__)


def open_product(root: Path, product: str, part, settings: dict) -> "ProductDir":
    """Open the directory of a product of one plan part, made on first use.

    Args:
        root: the run folder.
        product: one of PRODUCTS.
        part: the cache.plan.Part whose rows the product holds.
        settings: plain JSON, everything that can change the product's bytes, with the settings of what it is made from.
    Raises:
        StaleCacheError: the run.json that stands there differs; names the field.
        NoStoreError: the root mirrors a run elsewhere, which does not have it.
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
    if remote := remote_of(Path(root)):
        if not file.exists():
            raise NoStoreError(f"{remote.url} has no {product} with these settings ({path.name}) for {part.name}")
        return ProductDir(path, part, read_sealed(file))
    with storage_errors(path):
        for folder in (path / "done", path / "locks"):
            folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            commit.write_once(file, seal(run))
        for folder in (path.parent, path.parent.parent):
            sync_directory(folder)
    if wrong := differences(read_sealed(file), run):
        raise StaleCacheError(f"{file}: {wrong[0]}")
    return ProductDir(path, part, run)


def read_product(path: Path, parts: dict) -> "ProductDir":
    """Open a product directory that exists, of one of the plan's parts by name.

    Raises:
        StaleCacheError: run.json names another format, part or plan, or is not the one its directory is named after.
        DamagedError: run.json is missing or unreadable.
    """
    file = path / "run.json"
    run = read_sealed(file, "product", "format", "part", "rows_sha256", "settings")
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
        path: the directory. part: the plan part. product, key, settings: as in run.json. remote: where its data comes
            from when it is read, if not from here.
    """

    def __init__(self, path: Path, part, run: dict):
        self.path, self.part = path, part
        self.product, self.settings, self.key = run["product"], run["settings"], path.name
        self.remote = remote_of(path.parent.parent)
        self._verified = {}  # file -> what it was when its content was compared
        self._vouched = {}  # unit -> record whose files were found; records never change, so they are kept

    def done(self, unit: int) -> dict | None:
        """The commit record of a unit, or None. Says nothing about the files; `vouch` does."""
        path = self._record_path(unit)
        if not path.exists():
            return None
        record = read_sealed(path, "unit", "key", "files", "rows", "skipped")
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
    def lock(self, unit: int, wait: bool = False):
        """Yields whether the unit is ours to do: False when it is done by now or, without `wait`, in other hands."""
        with commit.locked(self.path / "locks" / f"{unit:06d}", wait) as mine:
            yield mine and not self.is_done(unit)

    def is_done(self, unit: int) -> bool:
        """Whether the unit has a record; does not read it."""
        return self._record_path(unit).exists()

    def withdraw(self, unit: int) -> bool:
        """Take the record of a unit back, so that it is done anew. Its files stay until they are replaced or swept up.

        Returns:
            False when another process is at work on the unit.
        """
        with commit.locked(self.path / "locks" / f"{unit:06d}") as mine:
            if mine:
                with storage_errors(self.path):
                    self._record_path(unit).unlink(missing_ok=True)
                    sync_directory(self.path / "done")
                self._vouched.pop(unit, None)
            return mine

    def skips(self) -> dict[int, list[dict]]:
        """Units with skipped videos: the entries of their records."""
        units = sorted(set(range(self.part.num_units)) - set(self.todo()))
        return {unit: skipped for unit in units if (skipped := self.done(unit)["skipped"])}

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
        files, rows = list(files), self.part.unit_rows(unit)
        known = {self.part.video_ids[row] for row in rows}
        if unknown := [skip["video_id"] for skip in skipped if skip["video_id"] not in known]:
            raise ValueError(f"{self.path}: skipped videos {unknown} are not in unit {unit}")
        commit.make_durable(files, self.path)
        record = extra | {
            "unit": unit,
            "status": status,
            "files": [_entry(file, self.path) for file in files],
            "rows": [rows.start, rows.stop],
            "key": self.key,
            "skipped": list(skipped),
            "versions": _versions() | (versions or {}),
        }
        path = self._record_path(unit)
        first = commit.write_once(path, seal(record))
        if not first:
            log.warning("%s was published by another process first", path)
        return first

    def vouch(self, unit: int) -> dict:
        """The record of a unit whose files are there in full size; of files elsewhere `fetch` says that.

        Raises:
            NotDoneError: no record. DamagedError: a file is missing or has another size.
        """
        if unit not in self._vouched:
            record = self.done(unit)
            if record is None:
                raise NotDoneError(f"unit {unit} of {self.product}/{self.key} ({self.part.name}) is not done")
            for file in () if self.remote else record["files"]:
                path = self.path / file["name"]
                if not path.is_file() or path.stat().st_size != file["bytes"]:
                    raise DamagedError(f"{path} is missing or not {file['bytes']} bytes, as its record says")
            self._vouched[unit] = record
        return self._vouched[unit]

    def fetch(self, unit: int, below: str = ""):
        """Have every file of a done unit here, or those below a folder. Call it before they are opened.

        Raises:
            NotDoneError, DamagedError: as `vouch`. StorageError: they are elsewhere, and keep not arriving.
        """
        for file in self.vouch(unit)["files"] if self.remote else ():
            if file["name"].startswith(below):
                self.remote.fetch(self.path / file["name"], file["bytes"], file["sha256"])

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
            done[rows.start : rows.stop] = (
                [self.part.video_ids[row] not in skipped for row in rows] if skipped else True
            )
        return done

    def verify(self, unit: int, below: str = ""):
        """Compare the SHA-256 of every file of a done unit, or of those below a folder, once in a process.

        Raises:
            NotDoneError, DamagedError: as `vouch`; a file is not the one that was committed.
        """
        self.fetch(unit, below)
        for file in self.vouch(unit)["files"]:
            path = self.path / file["name"]
            if not file["name"].startswith(below):
                continue
            stat = path.stat()
            version = (file["sha256"], stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._verified.get(path) == version:
                continue
            if file_sha256(path) != file["sha256"]:
                raise DamagedError(f"{path} does not have the SHA-256 of its record")
            self._verified[path] = version

    def _record_path(self, unit: int) -> Path:
        return self.path / "done" / f"{unit:06d}.json"


def _entry(file: Path, root: Path) -> dict:
    """A file's entry in a record."""
    name = file.relative_to(root).as_posix()
    return {"name": name, "bytes": file.stat().st_size, "sha256": file_sha256(file)}


@cache
def _versions() -> dict:
    return {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "zarr", "h5py")}
