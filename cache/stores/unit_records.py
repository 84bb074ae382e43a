"""The commit records of a product: a file done/<unit>.json for each of the newest units, segments for all others.

A segment, done/segments/<hash>.jsonl, never changes: a header that says which units it has, then a record a line, each
line with a checksum of itself. A unit is done where a file or a segment has its record; the file counts first.

`fold` deletes the files of units once a segment with their records is durable. So whoever lists the files first and the
segments afterwards misses no unit. Processes that share no locks may fold at once: then several segments have a record.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

from cache import commit
from cache.commit import storage_errors, sync_directory, write_file
from cache.errors import DamagedError, StorageError
from cache.layout import SEGMENT, record_path
from cache.sealed import parse_sealed, read_bytes, read_sealed, recorded_files, seal, seal_line

FEWEST, MOST = 256, 1024  # records that are folded, and that a segment has
_SETTLED_NS = 2_000_000_000  # a folder that changed so long ago gets another time when it changes again
_FIELDS = ("unit", "key", "files", "rows", "skipped")


class UnitRecords:
    """The records in a product's folder, whose name is the product's key. Reads nothing before it is asked."""

    def __init__(self, product: Path):
        self.product, self.key = product, product.name
        self.folder, self.lock = product / "done" / "segments", product / "locks" / "segments"
        self._headers = {}  # by name of the segment
        self._segment_of = {}  # unit -> name of a segment
        self._lines = {}  # name of a segment -> unit -> line
        self._error = None  # why a segment is not among them
        self._listed = None  # when the folder of segments had changed as it was listed; None: list it again

    def files(self) -> set[int]:
        """List the units that have a file of their own."""
        found = (re.fullmatch(r"([0-9]{6,})\.json", name) for name in _names(self.product / "done"))
        return {int(match[1]) for match in found if match}

    def segments(self) -> list[str]:
        """List the names of the segments."""
        names = None
        while (again := sorted(filter(SEGMENT.fullmatch, _names(self.folder)))) and again != names:
            names = again  # until two listings agree: during one, a segment may have taken the place of another
        return again

    def units(self) -> set[int]:
        """List the units with a record. DamagedError where the header of a segment is not what was written."""
        return self.files() | self.facts().keys()

    def facts(self) -> dict[int, tuple[int, list[dict]]]:
        """Return the bytes of the files, and the skipped videos, of every unit in a segment. Raises as `units`."""
        self._look()
        if self._error:
            raise self._error
        return {
            unit: (num_bytes, header["skipped"].get(str(unit), []))
            for header in self._headers.values()
            for unit, num_bytes in zip(header["units"], header["bytes"], strict=True)
        }

    def is_done(self, unit: int) -> bool:
        """Whether the unit has a record, which is not read."""
        return record_path(self.product, unit).exists() or self._find(unit) is not None

    def read(self, unit: int) -> dict | None:
        """The record of a unit, or None; DamagedError where it is not what was written, or of another unit."""
        try:
            return self._own(unit)
        except DamagedError as error:
            if not _is_missing(error):
                raise
        segment = self._find(unit)
        try:
            return None if segment is None else self._folded(unit, segment)
        except DamagedError as error:
            if not _is_missing(error) or self._find(unit) == segment:
                raise
            return self.read(unit)  # in another segment by now, or withdrawn

    def walk(self) -> Iterator[tuple[Path, dict | Exception]]:
        """Yield every record that counts, or the error instead of what cannot be read, with the file that it is in."""
        files = self.files()
        for unit in sorted(files):
            try:
                yield record_path(self.product, unit), self._own(unit)
            except (DamagedError, StorageError) as error:
                if _is_missing(error):
                    files.remove(unit)  # in a segment by now
                else:
                    yield record_path(self.product, unit), error
        for path in [self.folder / name for name in self.segments()]:
            try:
                records = self._whole(path)
            except (DamagedError, StorageError) as error:
                yield path, error
                continue
            yield from ((path, record) for unit, record in records.items() if unit not in files)

    def fold(self, fewest: int = FEWEST, most: int = MOST) -> int:
        """Gather the records that have files of their own in segments of `most`; return how many.

        None where they are fewer than `fewest`, or another process is at it. A record that cannot be read, or is not
        the one that a segment has, keeps its file. Raises as `units`.
        """
        if len(self.files()) < fewest:
            return 0
        with commit.locked(self.lock) as mine:
            units, number = sorted(self.files()) if mine else [], 0
            for first in range(0, len(units), most):
                number += self._move(units[first : first + most])
            return number

    def _move(self, units: list[int]) -> int:
        """Write a segment with the records of some units, and delete their files; return how many."""
        folded, records = self.facts(), {}
        for unit in units:
            with suppress(DamagedError, StorageError):
                record = self._own(unit)
                if unit not in folded or self._folded(unit, self._segment_of[unit]) == record:
                    records[unit] = record
        if new := {unit: record for unit, record in records.items() if unit not in folded}:
            self._write(new)
        with storage_errors(self.folder):
            # a segment that was there may be of a process that was killed before it fsynced these
            for folder in (self.folder, self.folder.parent) if records else ():
                sync_directory(folder)
            for unit in records:
                record_path(self.product, unit).unlink(missing_ok=True)
            sync_directory(self.folder.parent)
        return len(records)

    def withdraw(self, unit: int, few: bool = False) -> None:
        """Delete the record of a unit; a segment that has it makes room for one without it.

        Wait for a process that folds, or it could have read the record before and gather it afterwards; unless the
        product has so `few` units that none ever does.
        """
        with nullcontext() if few and not self.folder.exists() else commit.locked(self.lock, wait=True):
            if unit in self.facts():
                for name in [name for name, header in self._headers.items() if unit in header["units"]]:
                    records = self._whole(self.folder / name)
                    del records[unit]
                    if records:
                        self._write(records)
                    self._delete(self.folder / name)
            self._delete(record_path(self.product, unit))

    def unfold(self, segment: Path, move: Callable[[Path], None] | None = None) -> None:
        """Give the records of a segment files of their own, and delete it.

        Of one that is damaged, only those that are whole; then `move` it away.
        """
        with commit.locked(self.lock, wait=True):
            try:
                for line in read_bytes(segment).splitlines(keepends=True):
                    with suppress(DamagedError):
                        record = self._check(parse_sealed(line, segment, *_FIELDS), segment)
                        commit.write_once(record_path(self.product, record["unit"]), seal(record))
                self._whole(segment)
                self._delete(segment)
            except DamagedError:
                if move and os.path.lexists(segment):
                    move(segment)

    def _look(self) -> None:
        """List the segments where their folder changed, and read the headers of those that are new."""
        with storage_errors(self.folder):
            try:
                changed = os.lstat(self.folder).st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                self._headers, self._segment_of, self._error = {}, {}, None
                return
        if changed == self._listed:
            return
        headers, self._error = {}, None
        for name in self.segments():
            try:
                headers[name] = self._headers.get(name) or self._header(self.folder / name)
            except (DamagedError, StorageError) as error:
                if not os.path.lexists(self.folder / name):  # another one has taken its place meanwhile
                    return self._look()
                self._error = error
        self._headers = headers
        self._segment_of = {unit: name for name, header in headers.items() for unit in header["units"]}
        self._listed = changed if not self._error and time.time_ns() - changed > _SETTLED_NS else None

    def _find(self, unit: int) -> str | None:
        """The name of a segment that has the unit, or None. Raises as `units` where it is in none that can be read."""
        self._look()
        if self._error and unit not in self._segment_of:
            raise self._error
        return self._segment_of.get(unit)

    def _header(self, path: Path) -> dict:
        with storage_errors(path), open(path, "rb") as file:
            content = parse_sealed(file.readline(), path, "key", "units", "bytes", "skipped")
        numbers = [content["units"], content["bytes"]]
        whole = all(isinstance(one, list) and all(type(number) is int for number in one) for one in numbers)
        whole = whole and len(numbers[0]) == len(numbers[1]) and isinstance(content["skipped"], dict)
        if content["key"] != self.key or not whole:
            raise DamagedError(f"{path} is no segment of records of {self.key}")
        return content

    def _own(self, unit: int) -> dict:
        """The record in the unit's own file."""
        path = record_path(self.product, unit)
        return self._check(read_sealed(path, *_FIELDS), path, unit)

    def _folded(self, unit: int, segment: str) -> dict:
        """The record in a segment, whose lines are kept."""
        path = self.folder / segment
        if segment not in self._lines:
            lines, units = read_bytes(path).splitlines(keepends=True)[1:], self._headers[segment]["units"]
            if len(lines) != len(units):
                raise DamagedError(f"{path} has {len(lines)} records, its header says {len(units)}")
            self._lines[segment] = dict(zip(units, lines, strict=True))
        return self._check(parse_sealed(self._lines[segment][unit], path, *_FIELDS), path, unit)

    def _whole(self, path: Path) -> dict[int, dict]:
        """All records in a segment by unit. DamagedError where a byte of it is not what was written."""
        data = read_bytes(path)
        lines = data.splitlines(keepends=True)[1:]
        records = [self._check(parse_sealed(line, path, *_FIELDS), path) for line in lines]
        records = {record["unit"]: record for record in records}
        if _segment(self.key, records) != (path.name, data):
            raise DamagedError(f"{path} is not what was written: its header or its name does not fit")
        return records

    def _check(self, record: dict, path: Path, unit: int | None = None) -> dict:
        own = record["unit"] if unit is None else unit
        if (record["unit"], record["key"]) != (own, self.key) or type(own) is not int:
            raise DamagedError(f"{path} is the record of unit {record['unit']} of {record['key']}")
        recorded_files(path, record)
        return record

    def _write(self, records: dict[int, dict]) -> None:
        name, data = _segment(self.key, records)
        self._listed = None
        with storage_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
        write_file(self.folder / name, data)  # whole at once: whoever lists the folder reads it

    def _delete(self, path: Path) -> None:
        self._listed = None
        with storage_errors(path):
            path.unlink(missing_ok=True)
            sync_directory(path.parent)


def _segment(key: str, records: dict[int, dict]) -> tuple[str, bytes]:
    """The name and the bytes of a segment."""
    units = sorted(records)
    header = {
        "key": key,
        "units": units,
        "bytes": [sum(file["bytes"] for file in records[unit]["files"]) for unit in units],
        "skipped": {str(unit): records[unit]["skipped"] for unit in units if records[unit]["skipped"]},
    }
    data = b"".join(map(seal_line, (header, *(records[unit] for unit in units))))
    return f"{hashlib.sha256(data).hexdigest()[:16]}.jsonl", data


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):  # of a product that nobody has begun, or folded
        return []


def _is_missing(error: Exception) -> bool:
    return isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError))
