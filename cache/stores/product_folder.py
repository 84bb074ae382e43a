"""The folder of a product, <run>/<product>/<key>/: which of its units are done, and how a unit becomes done.

It holds one product of one plan part: run.json (what it is made from), the data, locks/ and done/. The files of a unit
come first, its commit record last. Readers rely on records alone, whatever other files there are.
"""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from cache import commit
from cache.errors import DamagedError, NotDoneError
from cache.fingerprint import file_sha256
from cache.layout import record_path
from cache.plan import Part
from cache.remote.fetch import remote_of
from cache.remote.publish import Publisher
from cache.sealed import file_entry, read_bytes, seal
from cache.stores.unit_records import FEWEST, UnitRecords

VERSIONS = {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "zarr", "h5py")}
log = logging.getLogger(__name__)


class ProductDir:
    """One product of one plan part, with product, key and settings as in run.json.

    `remote` says where the data is downloaded from, `publisher` puts it there; None where the data lies in the folder.
    """

    def __init__(self, path: Path, part: Part, run: dict):
        self.path, self.part = path, part
        self.product, self.settings, self.key = run["product"], run["settings"], path.name
        self.remote = remote_of(path.parent.parent)
        self.publisher = Publisher(self.remote) if self.remote and self.remote.writes else None
        self.records = UnitRecords(path)
        self._verified = {}  # file -> SHA-256, time of change, size and inode when its content was compared
        self._checked = {}  # unit -> record whose files were there; a record never changes
        self._facts = {}  # unit -> bytes and skipped videos, as its record says

    def todo(self) -> list[int]:
        """Units without a commit record; lists done/, and reads the headers of segments."""
        return sorted(set(range(self.part.num_units)) - self.records.units())

    def done_units(self) -> list[int]:
        """Units with a commit record; as `todo`."""
        return sorted(set(range(self.part.num_units)) & self.records.units())

    def is_done(self, unit: int) -> bool:
        """Whether the unit has a commit record; does not read it."""
        return self.records.is_done(unit)

    def record(self, unit: int) -> dict | None:
        """The commit record of a unit, or None; its files are not looked at, see `checked_record`.

        DamagedError where it is not what was written, or not a record of this unit.
        """
        return self.records.read(unit)

    def checked_record(self, unit: int) -> dict:
        """The commit record of a unit, whose files are there in full size; if they lie elsewhere, `fetch` checks that.

        NotDoneError where there is none; DamagedError as `record`, or where a file is missing or has another size.
        """
        if unit not in self._checked:
            record = self.record(unit)
            if record is None:
                raise NotDoneError(f"unit {unit} of {self.product}/{self.key} ({self.part.name}) is not done")
            for file in () if self.remote else record["files"]:
                path = self.path / file["name"]
                if not path.is_file() or path.stat().st_size != file["bytes"]:
                    raise DamagedError(f"{path} is missing or not {file['bytes']} bytes, as its record says")
            self._checked[unit] = record
        return self._checked[unit]

    def check_row(self, row: int) -> None:
        """Raise IndexError or NotDoneError where a local row does not exist, is not done or was skipped."""
        if not 0 <= row < self.part.num_rows:
            raise IndexError(f"{self.part.name} has rows 0 to {self.part.num_rows - 1}, got {row}")
        for skip in self.checked_record(row // self.part.rows_per_unit)["skipped"]:
            if skip["video_id"] == self.part.video_ids[row]:
                raise NotDoneError(f"row {row} of {self.part.name}: {skip['video_id']} was skipped, {skip['error']}")

    def rows_done(self) -> np.ndarray:
        """Which local rows can be read, bool (num_rows,). Raises as `checked_record`."""
        done = np.zeros(self.part.num_rows, bool)
        for unit in self.done_units():
            rows = self.part.unit_rows(unit)
            skipped = {skip["video_id"] for skip in self.checked_record(unit)["skipped"]}
            done[rows.start : rows.stop] = [self.part.video_ids[row] not in skipped for row in rows]
        return done

    def skips(self) -> dict[int, list[dict]]:
        """The units in which videos were skipped, with the entries of these videos in their records, see `commit`."""
        return {unit: skipped for unit, (_, skipped) in sorted(self._known().items()) if skipped}

    def num_bytes(self) -> int:
        """The bytes of all files that records name, of each as often as it is named; no file is looked at."""
        return sum(num_bytes for num_bytes, _ in self._known().values())

    def skipped(self, unit: int) -> list[dict]:
        """The entries of a done unit's skipped videos, see `commit`."""
        return self._known_of(unit)[1]

    def _known(self) -> dict[int, tuple[int, list[dict]]]:
        """Bytes and skipped videos of every done unit; only records that have files of their own are read."""
        units, files = range(self.part.num_units), self.records.files()
        known = {unit: facts for unit, facts in self.records.facts().items() if unit in units}
        return known | {unit: self._known_of(unit) for unit in files if unit in units}

    def _known_of(self, unit: int) -> tuple[int, list[dict]]:
        """Bytes and skipped videos of a done unit, as its record says, which a process reads once."""
        if unit not in self._facts and (record := self.record(unit)):
            self._facts[unit] = _facts_of(record)
        return self._facts.get(unit, (0, []))  # it may have been withdrawn since

    @contextmanager
    def lock(self, unit: int, wait: bool = False) -> Iterator[bool]:
        """Hold a unit's lock, with `wait` after other processes; yield whether the unit is to be done.

        It is not where it is done by now or, without `wait`, where another process is at work on it.
        """
        with commit.locked(self.path / "locks" / f"{unit:06d}", wait) as mine:
            if mine and self.publisher and not self.is_done(unit):
                self.publisher.begin(record_path(self.path, unit))
            yield mine and not self.is_done(unit)

    def write(self, folder: str, files: dict[str, bytes]) -> list[dict]:
        """Write files, content by name, into a folder of the product, see `write_files`; return them for `commit`."""
        (self.publisher or commit).write_files(self.path / folder, files)
        return [file_entry(f"{folder}/{name}", data) for name, data in files.items()]

    def commit(self, unit: int, files: list[Path | dict], skipped=(), **extra) -> bool:
        """Make the files of a unit durable, then publish its record; return False where another process was first.

        Args:
            files: paths, or what `write` returned of files that are durable already.
            skipped: {"video_id", "error", "detail"} of every video that failed; its rows do not count as done.
            extra: more plain JSON for the record. No times and no hosts: records are equal from run to run.
        """
        rows = self.part.unit_rows(unit)
        if unknown := {skip["video_id"] for skip in skipped} - {self.part.video_ids[row] for row in rows}:
            raise ValueError(f"{self.path}: skipped videos {sorted(unknown)} are not in unit {unit}")
        if paths := [file for file in files if isinstance(file, Path)]:
            commit.make_durable(paths, self.path)
        record = extra | {
            "unit": unit,
            "status": "ok",
            "files": [self.entry(file) if isinstance(file, Path) else file for file in files],
            "rows": [rows.start, rows.stop],
            "key": self.key,
            "skipped": list(skipped),
            "versions": VERSIONS,
        }
        if first := (self.publisher or commit).write_once(record_path(self.path, unit), seal(record)):
            self._facts[unit] = _facts_of(record)
        else:
            log.warning("%s was published by another process first", record_path(self.path, unit))
        if len(self._facts) % FEWEST == 0:  # grows by each commit of this process
            self.gather()
        return first

    def gather(self) -> None:
        """Fold the records: all once no unit of many is left to do, before that where there are enough of them."""
        last = self.part.num_units >= FEWEST and not self.todo()
        if not self.remote:
            self.records.fold(fewest=1 if last else FEWEST)

    def withdraw(self, unit: int) -> bool:
        """Delete a unit's record, so that it is done anew; return False where another process is at work on it.

        Its files stay until they are replaced or swept.
        """
        with commit.locked(self.path / "locks" / f"{unit:06d}") as mine:
            if mine:
                self.records.withdraw(unit, few=self.part.num_units < FEWEST)
                self._checked.pop(unit, None)
                self._facts.pop(unit, None)
            return mine

    def fetch(self, unit: int, below: str = "") -> None:
        """Download the files of a done unit whose names begin with `below`, where they lie elsewhere.

        Raises as `checked_record`; StorageError where a download fails every time.
        """
        for file in self.checked_record(unit)["files"] if self.remote else ():
            if file["name"].startswith(below):
                self.remote.fetch(self.path / file["name"], file["bytes"], file["sha256"])

    def read(self, file: dict) -> bytes:
        """The content of a file that a record names, downloaded where it lies elsewhere.

        DamagedError where it is not what was committed; StorageError where it cannot be read.
        """
        path = self.path / file["name"]
        if self.remote:
            self.remote.fetch(path, file["bytes"], file["sha256"])
        data = read_bytes(path)
        if file_entry(file["name"], data) != file:
            raise DamagedError(f"{path} is not what its record says")
        return data

    def verify(self, unit: int, below: str = "") -> None:
        """Compare the files of a done unit whose names begin with `below` with their SHA-256.

        A process compares a file once, and again where its size, time of change or inode changed. Raises as `fetch`;
        DamagedError where a file is not what was committed.
        """
        self.fetch(unit, below)
        for file in [file for file in self.checked_record(unit)["files"] if file["name"].startswith(below)]:
            path = self.path / file["name"]
            stat = path.stat()
            state = (file["sha256"], stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._verified.get(path) != state and file_sha256(path) != file["sha256"]:
                raise DamagedError(f"{path} does not have the SHA-256 of its record")
            self._verified[path] = state

    def entry(self, file: Path) -> dict:
        """What a record says of a file of the product."""
        return file_entry(file.relative_to(self.path).as_posix(), file.read_bytes())


def _facts_of(record: dict) -> tuple[int, list[dict]]:
    return sum(file["bytes"] for file in record["files"]), record["skipped"]
