"""Arrays in Zarr, of the products base, maps and boxes: one file a unit and array.

Every array of the Zarr v3 group arrays.zarr is (num_rows, *row_shape), compressed with zstd and checked by CRC32C. The
file of a unit is a shard of one-row chunks or, where rows are small, one chunk. It lies beside the array's zarr.json;
where an older version has made the array, in folders below c/. Rows are local rows.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore, StorePath

from cache.commit import locked, make_durable, storage_errors, write_file
from cache.errors import DamagedError, NotDoneError, StaleCacheError
from cache.layout import ARRAYS, record_path
from cache.plan import Part
from cache.sealed import file_entry, read_bytes
from cache.stores.product_folder import ProductDir

OLDEST_ZARR = (3, 1, 6)  # older ones write a chunk in place, or lack Array.with_config
CODECS = {"bytes", "zstd", "crc32c", "sharding_indexed"}  # all that this module writes
MAX_ROW_BYTES = 1 << 26
_Buffer = default_buffer_prototype().buffer


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store."""

    name: str
    row_shape: tuple[int, ...]  # () for a number
    dtype: str  # NumPy's, "f4" or "u2"; floats are NaN where nothing is written, integers 0
    chunk: Literal["row", "unit"]  # "row" where single rows are read, "unit" for small rows that are read together
    row_dimensions: tuple[str, ...] = ()  # names of the axes of row_shape, for xarray

    def __post_init__(self):
        if self.chunk not in ("row", "unit"):
            raise ValueError(f"array {self.name}: chunk {self.chunk!r}, allowed: row, unit")


class ZarrStore:
    """Arrays of one product of one plan part, opened with `create` to write or with `open` to read."""

    def __init__(self, product: ProductDir, metadata: dict[str, bytes]):
        """`metadata` has the zarr.json of every array by name and, where units are to be written, "" of the group."""
        if tuple(map(int, re.findall(r"\d+", zarr.__version__)[:3])) < OLDEST_ZARR:
            raise RuntimeError(f"zarr {zarr.__version__} is too old, 3.1.6 or later is needed")
        self.product, self.part = product, product.part
        self.arrays = {name: _open_array(product, name, data) for name, data in metadata.items() if name}
        entries = [file_entry(_metadata_name(name), data) for name, data in metadata.items()]
        self._metadata = sorted(entries, key=lambda entry: entry["name"].split("/"))  # for records: it never changes

    @classmethod
    def create(cls, product: ProductDir, specs: list[ArraySpec]) -> "ZarrStore":
        """Make the arrays that are missing, then open. Several processes may do so at once.

        StaleCacheError where an array is there with another shape, dtype or chunks.
        """
        if product.remote and not product.publisher:
            return cls.open(product)
        names = ["", *sorted(spec.name for spec in specs)]
        metadata = _read_metadata(product, names)
        if len(metadata) < len(names) or not product.done_units():  # with a record, it is durable
            _make_arrays(specs, product)
            metadata = _read_metadata(product, names)
        store = cls(product, metadata)
        for spec in specs:
            wanted = _layout_of(spec, product.part)
            found = {name: getattr(store.arrays[spec.name], name) for name in wanted}
            if found != wanted:
                raise StaleCacheError(f"{product.path / ARRAYS / spec.name}: {found} != {wanted}")
        return store

    @classmethod
    def open(cls, product: ProductDir) -> "ZarrStore":
        """Open the arrays that are there; DamagedError where the metadata is not what this module writes."""
        names = sorted(path.parent.name for path in (product.path / ARRAYS).glob("*/zarr.json"))
        return cls(product, _read_metadata(product, names))

    def write_unit(self, unit: int, values: dict[str, np.ndarray], skipped=()) -> bool:
        """Write all arrays of a unit and commit it as `ProductDir.commit`, while `product.lock(unit)` is held.

        values has every array, (rows of the unit, *row_shape) in the array's dtype. What rows of skipped videos hold
        does not matter, but must be the same in every run.
        """
        rows = self.part.unit_rows(unit)
        if values.keys() != self.arrays.keys():
            raise ValueError(f"unit {unit} needs the arrays {sorted(self.arrays)}, got {sorted(values)}")
        for name, array in self.arrays.items():
            wanted = (len(rows), *array.shape[1:])
            if values[name].shape != wanted or values[name].dtype != array.dtype:
                got = f"{values[name].dtype} {values[name].shape}"
                raise ValueError(f"array {name} of unit {unit} must be {array.dtype} {wanted}, got {got}")
        files = []
        for name, array in self.arrays.items():
            chunks, key = {}, _key(array, unit)
            _in_memory(array, chunks)[rows.start : rows.stop] = values[name]
            files += self.product.write(f"{ARRAYS}/{name}", {key: chunks[key].to_bytes()})
        return self.product.commit(unit, files + self._metadata, skipped)  # without zarr.json no shard can be read

    def read_unit(self, unit: int, name: str) -> dict[int, np.ndarray]:
        """The rows of a unit by local row, without those of skipped videos. Opens the unit's record and one file.

        NotDoneError where the unit is not done, DamagedError where its record or this file is not what was written.
        """
        record, array, rows = self.product.record(unit), self._array(name), self.part.unit_rows(unit)
        if record is None:
            raise NotDoneError(f"unit {unit} of {self.product.path} ({self.part.name}) is not done")
        key, failed = _key(array, unit), {skip["video_id"] for skip in record["skipped"]}
        files = [file for file in record["files"] if file["name"] == f"{ARRAYS}/{name}/{key}"]
        if not files:
            raise DamagedError(f"{record_path(self.product.path, unit)} names no {ARRAYS}/{name}/{key}")
        data = self.product.read(files[0])
        with _refused(self.product.path / files[0]["name"]):
            values = np.asarray(_in_memory(array, {key: _Buffer.from_bytes(data)})[rows.start : rows.stop])
        return {row: values[row - rows.start] for row in rows if self.part.video_ids[row] not in failed}

    def read(self, name: str, row: int) -> np.ndarray:
        """One local row, an array of row_shape. Raises as `read_rows`."""
        return self.read_rows(name, np.array([row]))[0]

    def read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Local rows in any order, also repeated: (len(rows), *row_shape) in the stored dtype; never a fill value.

        IndexError where the part has no such row, NotDoneError where a row is not done or its video was skipped,
        DamagedError where a file is not what was written.
        """
        rows = np.asarray(rows, np.int64)
        for row in rows.tolist():
            self.product.check_row(row)
        array = self._array(name)
        for unit in np.unique(rows // self.part.rows_per_unit).tolist():
            self.product.verify(unit, f"{ARRAYS}/{name}/")  # swapped files have right checksums of chunks
        with _refused(self.product.path / ARRAYS / name):
            if not len(rows):
                return np.empty((0, *array.shape[1:]), array.dtype)
            if (np.diff(rows) == 1).all():  # plain indexing is up to twice as fast
                return np.asarray(array[rows[0] : rows[-1] + 1])
            return np.asarray(array.oindex[rows])

    def read_all(self, name: str) -> np.ndarray:
        """Every row of the part, (num_rows, *row_shape). Raises as `read_rows`."""
        return self.read_rows(name, np.arange(self.part.num_rows))

    def _array(self, name: str) -> zarr.Array:
        if name not in self.arrays:  # it may have been made since the store was opened
            self.arrays = ZarrStore.open(self.product).arrays
        if name not in self.arrays:
            raise DamagedError(f"{self.product.path} has no array {name!r}, it has: {', '.join(self.arrays)}")
        return self.arrays[name]


def _key(array: zarr.Array, unit: int) -> str:
    """Zarr's name of the file of a unit, in the folder of the array."""
    return array.metadata.encode_chunk_key((unit, *[0] * (array.ndim - 1)))


def _in_memory(array: zarr.Array, chunks: dict) -> zarr.Array:
    """An array with the metadata of another one, whose files are the items of a dictionary."""
    twin = zarr.Array(zarr.AsyncArray(array.metadata, StorePath(MemoryStore(chunks))))
    return twin.with_config({"write_empty_chunks": True})  # rows of zeros, too, so that a missing file is always a loss


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn what Zarr raises on files that it did not write into a DamagedError."""
    try:
        yield
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        raise DamagedError(f"{path}: {error}") from error


def _metadata_name(name: str) -> str:
    """The file that describes an array, or with "" the group, in the folder of the product."""
    return f"{ARRAYS}/{name}/zarr.json" if name else f"{ARRAYS}/zarr.json"


def _read_metadata(product: ProductDir, names: list[str]) -> dict[str, bytes]:
    """Read the zarr.json of some arrays, by name; those that are missing are left out."""
    found = {}
    for name in names:
        try:
            found[name] = read_bytes(product.path / _metadata_name(name))
        except DamagedError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return found


def _open_array(product: ProductDir, name: str, data: bytes) -> zarr.Array:
    """Open an array to read it, given its zarr.json."""
    path = product.path / _metadata_name(name)
    content = _checked_metadata(path, data, product.part)
    try:
        return zarr.Array(zarr.AsyncArray(content, StorePath(LocalStore(path.parent, read_only=True))))
    except Exception as error:  # Zarr raises anything on JSON that it did not write
        raise DamagedError(f"{path}: {error!r}") from error


def _layout_of(spec: ArraySpec, part: Part) -> dict:
    """What a Zarr array should have, by the name of the attribute."""
    unit = (part.rows_per_unit, *spec.row_shape)
    chunks, shards = ((1, *spec.row_shape), unit) if spec.chunk == "row" else (unit, None)
    shape = (part.num_rows, *spec.row_shape)
    return {"shape": shape, "dtype": np.dtype(spec.dtype), "chunks": chunks, "shards": shards}


def _make_arrays(specs: list[ArraySpec], product: ProductDir) -> None:
    """Write every zarr.json that is missing, and make all of them durable.

    Zarr fsyncs nothing: after a power cut its files may be empty. So they are made in memory and written as all others.
    """
    with locked(product.path / "locks" / "arrays", wait=True), storage_errors(product.path):
        units = product.done_units()[:1]  # then the files were there, and are made as they were
        recorded = {file["name"]: file["sha256"] for unit in units for file in product.record(unit)["files"]}
        drafts = [_draft(specs, product.part, *how) for how in itertools.product((True, False), "./")]
        for name, data in drafts[0].items():
            file = f"{ARRAYS}/{name}"
            as_before = (one[name] for one in drafts if file_entry(file, one[name])["sha256"] == recorded.get(file))
            (product.path / file).parent.mkdir(parents=True, exist_ok=True)
            if not (product.path / file).exists():
                write_file(product.path / file, next(as_before, data))
        files = [product.path / ARRAYS / name for name in drafts[0]]
        make_durable(files, product.path)
        for file in files if product.publisher else ():
            product.publisher.write_equal(file, file.read_bytes())


def _draft(specs: list[ArraySpec], part: Part, named: bool, separator: Literal[".", "/"]) -> dict[str, bytes]:
    """The zarr.json of a group and of some arrays, by path in the group.

    Args:
        named: with names of the axes.
        separator: in the names of units' files: "." for one file beside zarr.json, "/" for folders.
    """
    draft = {}
    group = zarr.create_group(MemoryStore(draft), zarr_format=3)
    for spec in specs:
        layout = _layout_of(spec, part)
        names = ("row", *spec.row_dimensions) if named and len(spec.row_dimensions) == len(spec.row_shape) else None
        group.create_array(
            spec.name,
            **layout,
            serializer=BytesCodec(endian="little"),
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            fill_value=math.nan if layout["dtype"].kind == "f" else 0,
            chunk_key_encoding={"name": "default", "separator": separator},
            dimension_names=names,
        )
    return {name: buffer.to_bytes() for name, buffer in sorted(draft.items())}


def _checked_metadata(path: Path, data: bytes, part: Part) -> dict:
    """Refuse a zarr.json with unknown codecs, other rows than the plan's or impossible sizes, before Zarr reads it."""
    try:
        content = json.loads(data)
        names = set(_codec_names(content["codecs"]))
        if content["zarr_format"] != 3 or not names <= CODECS:
            raise DamagedError(f"{path}: Zarr v3 with codecs {sorted(CODECS)} expected, found {sorted(names)}")
        if content["shape"][0] != part.num_rows:
            raise DamagedError(f"{path}: {content['shape'][0]} rows, the plan has {part.num_rows}")
        if content.get("storage_transformers"):
            raise DamagedError(f"{path}: has storage transformers")
        chunk = content["chunk_grid"]["configuration"]["chunk_shape"]
        row_bytes = math.prod(content["shape"][1:]) * np.dtype(content["data_type"]).itemsize
        if row_bytes > MAX_ROW_BYTES or chunk[1:] != content["shape"][1:] or not 0 < chunk[0] <= part.rows_per_unit:
            raise DamagedError(f"{path}: rows of {row_bytes} bytes in chunks of {chunk} are not a unit of the plan")
        return content
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: {error!r}") from error


def _codec_names(codecs: list[dict]) -> Iterator[str]:
    for codec in codecs:
        yield codec["name"]
        for field in ("codecs", "index_codecs"):
            yield from _codec_names(codec.get("configuration", {}).get(field, []))
