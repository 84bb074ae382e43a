"""Arrays in Zarr, of the products base, maps and boxes: one file a unit and array.

Every array of the Zarr v3 group arrays.zarr is (num_rows, *row_shape), compressed with zstd and checked by CRC32C. The
file of a unit is a shard of one-row chunks or, where rows are small, one chunk. Rows are local rows.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from cache.commit import locked, make_durable, storage_errors, write_file
from cache.errors import DamagedError, StaleCacheError
from cache.layout import ARRAYS
from cache.plan import Part
from cache.stores.product_folder import ProductDir

OLDEST_ZARR = (3, 1, 6)  # older ones write a chunk in place, or lack Array.with_config
CODECS = {"bytes", "zstd", "crc32c", "sharding_indexed"}  # all that this module writes
MAX_ROW_BYTES = 1 << 26


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

    def __init__(self, product: ProductDir, arrays: dict[str, zarr.Array]):
        self.product, self.part, self.arrays = product, product.part, arrays

    @classmethod
    def create(cls, product: ProductDir, specs: list[ArraySpec]) -> "ZarrStore":
        """Make the arrays that are missing, then open. Several processes may do so at once.

        StaleCacheError where an array is there with another shape, dtype or chunks.
        """
        root = product.path / ARRAYS
        if product.remote:
            return cls.open(product)
        with locked(product.path / "locks" / "arrays", wait=True), storage_errors(root):
            lacking = [spec for spec in specs if not (root / spec.name / "zarr.json").exists()]
            if lacking or not (root / "zarr.json").exists():
                _write_metadata(root, lacking, product)
            make_durable([root / "zarr.json", *(root / spec.name / "zarr.json" for spec in specs)], product.path)
        store = cls.open(product)
        for spec in specs:
            wanted = _layout_of(spec, product.part)
            found = {name: getattr(store.arrays[spec.name], name) for name in wanted}
            if found != wanted:
                raise StaleCacheError(f"{root / spec.name}: {found} != {wanted}")
        return store

    @classmethod
    def open(cls, product: ProductDir) -> "ZarrStore":
        """Open the arrays that are there; DamagedError where the metadata is not what this module writes."""
        if tuple(map(int, re.findall(r"\d+", zarr.__version__)[:3])) < OLDEST_ZARR:
            raise RuntimeError(f"zarr {zarr.__version__} is too old, 3.1.6 or later is needed")
        return cls(product, _open_arrays(product))

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
        root, files = self.product.path / ARRAYS, []
        for name, array in self.arrays.items():
            files.append(root.joinpath(name, "c", str(unit), *["0"] * (array.ndim - 1)))  # Zarr's chunk keys
            with storage_errors(files[-1]):
                _clear(root / name / "c", unit)
                array[rows.start : rows.stop] = values[name]
        files += sorted(root.glob("**/zarr.json"))  # without them the shards cannot be read
        return self.product.commit(unit, files, skipped)

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
        if name not in self.arrays:  # it may have been made since the store was opened
            self.arrays = _open_arrays(self.product)
        if name not in self.arrays:
            raise DamagedError(f"{self.product.path} has no array {name!r}, it has: {', '.join(self.arrays)}")
        array = self.arrays[name]
        for unit in np.unique(rows // self.part.rows_per_unit).tolist():
            self.product.verify(unit, f"{ARRAYS}/{name}/")  # swapped files have right checksums of chunks
        try:
            if not len(rows):
                return np.empty((0, *array.shape[1:]), array.dtype)
            if (np.diff(rows) == 1).all():  # plain indexing is up to twice as fast
                return np.asarray(array[rows[0] : rows[-1] + 1])
            return np.asarray(array.oindex[rows])
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            raise DamagedError(f"{self.product.path / ARRAYS / name}: {error}") from error

    def read_all(self, name: str) -> np.ndarray:
        """Every row of the part, (num_rows, *row_shape). Raises as `read_rows`."""
        return self.read_rows(name, np.arange(self.part.num_rows))


def _open_arrays(product: ProductDir) -> dict[str, zarr.Array]:
    arrays = {}
    for path in sorted((product.path / ARRAYS).glob("*/zarr.json")):
        _check_metadata(path, product.part)
        try:
            array = zarr.open_array(path.parent, mode="r+", zarr_format=3)
        except Exception as error:  # Zarr raises anything on JSON that it did not write
            raise DamagedError(f"{path}: {error!r}") from error
        # also rows of zeros are written, so that a missing file is always a loss
        arrays[path.parent.name] = array.with_config({"write_empty_chunks": True})
    return arrays


def _layout_of(spec: ArraySpec, part: Part) -> dict:
    """What a Zarr array should have, by the name of the attribute."""
    unit = (part.rows_per_unit, *spec.row_shape)
    chunks, shards = ((1, *spec.row_shape), unit) if spec.chunk == "row" else (unit, None)
    shape = (part.num_rows, *spec.row_shape)
    return {"shape": shape, "dtype": np.dtype(spec.dtype), "chunks": chunks, "shards": shards}


def _write_metadata(root: Path, specs: list[ArraySpec], product: ProductDir) -> None:
    """Write the zarr.json of the group and of some arrays.

    Zarr fsyncs nothing: after a power cut its files may be empty. So they are made in memory and written as all others.
    """
    units = product.done_units()[:1]  # then the files were there, and are made as they were, perhaps without names
    recorded = {file["name"]: file["sha256"] for unit in units for file in product.record(unit)["files"]}
    drafts = [_draft(specs, product.part, named) for named in (True, False)]
    for name, data in drafts[0].items():
        target = root / name
        if recorded.get(f"{root.name}/{name}") == hashlib.sha256(drafts[1][name]).hexdigest():
            data = drafts[1][name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            write_file(target, data)


def _draft(specs: list[ArraySpec], part: Part, named: bool) -> dict[str, bytes]:
    """The zarr.json of a group and of some arrays, by path in the group; with names of their axes, or as before."""
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
            dimension_names=names,
        )
    return {name: buffer.to_bytes() for name, buffer in sorted(draft.items())}


def _clear(folder: Path, unit: int) -> None:
    """Delete what a killed writer left of a unit: Zarr would merge a short last shard with it."""
    shutil.rmtree(folder / str(unit), ignore_errors=True)
    for path in [folder / str(unit), *folder.glob(f"{unit}.*.partial")]:
        path.unlink(missing_ok=True)


def _check_metadata(path: Path, part: Part) -> None:
    """Refuse a zarr.json with unknown codecs, other rows than the plan's or impossible sizes, before Zarr reads it."""
    try:
        content = json.loads(path.read_bytes())
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
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: {error!r}") from error


def _codec_names(codecs: list[dict]) -> Iterator[str]:
    for codec in codecs:
        yield codec["name"]
        for field in ("codecs", "index_codecs"):
            yield from _codec_names(codec.get("configuration", {}).get(field, []))
