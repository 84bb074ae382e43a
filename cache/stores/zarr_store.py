"""Zarr store: one fixed array per quantity, one shard per unit. Holds the products base, maps and boxes.

<product>/<key>/arrays.zarr is a Zarr v3 group. Every array is (num_rows, *row_shape), compressed with zstd and
guarded by CRC32C. A unit is one file per array: a shard of one-row chunks, or one chunk where rows are small. Local
rows throughout.
"""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from cache.commit import locked, make_durable, storage_errors, write_file
from cache.errors import DamagedError, StaleCacheError
from cache.stores.product_folder import ProductDir

OLDEST_ZARR = (3, 1, 3)  # older ones do not write a chunk through a temporary file
CODECS = {"bytes", "zstd", "crc32c", "sharding_indexed"}  # others are not ours and not trusted
MAX_ROW_BYTES = 1 << 26


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store.

    Args:
        name: of the array.
        row_shape: shape of one row; () for a number.
        dtype: NumPy dtype as text, "f4" or "u2". Floats are NaN where nothing is written, integers 0.
        chunk: "row" to read single rows cheaply, "unit" for small rows that are read together.
    """

    name: str
    row_shape: tuple[int, ...]
    dtype: str
    chunk: Literal["row", "unit"]

    def __post_init__(self):
        if self.chunk not in ("row", "unit"):
            raise ValueError(f"array {self.name}: chunk {self.chunk!r}, allowed: row, unit")


class ZarrStore:
    """Rows of one product of one plan part. Open it with `create` (to write) or `open` (to read)."""

    def __init__(self, product: ProductDir, arrays: dict[str, zarr.Array]):
        self.product, self.part, self.arrays = product, product.part, arrays

    @classmethod
    def create(cls, product: ProductDir, specs: list[ArraySpec]) -> "ZarrStore":
        """Make the arrays that are missing, then open. Safe when several processes start at once.

        Raises:
            StaleCacheError: an array stands there with another shape, dtype or chunks.
        """
        _check_version()
        root = product.path / "arrays.zarr"
        if product.remote:
            return cls.open(product)
        with locked(product.path / "locks" / "arrays", wait=True), storage_errors(root):
            lacking = [spec for spec in specs if not (root / spec.name / "zarr.json").exists()]
            if lacking or not (root / "zarr.json").exists():
                _write_metadata(root, lacking, product.part)
            make_durable([root / "zarr.json", *(root / spec.name / "zarr.json" for spec in specs)], product.path)
        store = cls.open(product)
        for spec in specs:
            found, wanted = _layout(store.arrays[spec.name]), _layout_of(spec, product.part)
            if found != wanted:
                raise StaleCacheError(f"{root / spec.name}: (shape, dtype, chunks, shards) {found} != {wanted}")
        return store

    @classmethod
    def open(cls, product: ProductDir) -> "ZarrStore":
        """Open what is there. Raises DamagedError for arrays that this module would not have written."""
        _check_version()
        return cls(product, _open_arrays(product))

    def write_unit(self, unit: int, values: dict[str, np.ndarray], skipped=(), **extra) -> bool:
        """Write all arrays of a unit, each in one piece, and commit it. Call it under `product.lock(unit)`.

        Args:
            unit: number of the unit.
            values: for every array (rows of the unit, *row_shape) in the array's dtype. Rows of skipped videos hold
                anything, always the same.
            skipped, extra: as in `ProductDir.commit`.
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
            files.append(self.product.path / "arrays.zarr" / name / _shard(unit, array.ndim))
            with storage_errors(files[-1]):
                _clear(self.product.path / "arrays.zarr" / name / "c", unit)
                array[rows.start : rows.stop] = values[name]
        # without them nobody could read the shards, so every record vouches for them, too
        files += sorted((self.product.path / "arrays.zarr").glob("**/zarr.json"))
        return self.product.commit(unit, files, skipped=skipped, **extra)

    def read(self, name: str, row: int) -> np.ndarray:
        """One local row, array of row_shape. Raises NotDoneError or DamagedError, never returns a fill value."""
        return self.read_rows(name, np.array([row]))[0]

    def read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Local rows in the order given, repeats allowed: (len(rows), *row_shape). Raises as `read`."""
        rows = np.asarray(rows, np.int64)
        if outside := [row for row in rows.tolist() if not 0 <= row < self.part.num_rows]:
            raise IndexError(f"{self.part.name} has rows 0 to {self.part.num_rows - 1}, got {outside[0]}")
        for row in rows.tolist():
            self.product.vouch_row(row)
        array = self._array(name)
        for unit in np.unique(rows // self.part.rows_per_unit).tolist():
            self.product.verify(unit, f"arrays.zarr/{name}/")  # checksums of chunks do not see swapped files
        try:
            if not len(rows):
                return np.empty((0, *array.shape[1:]), array.dtype)
            if (np.diff(rows) == 1).all():  # plain indexing is up to twice as fast
                return np.asarray(array[rows[0] : rows[-1] + 1])
            return np.asarray(array.oindex[rows])
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            raise DamagedError(f"{self.product.path / 'arrays.zarr' / name}: {error}") from error

    def read_all(self, name: str) -> np.ndarray:
        """Every row of the part, (num_rows, *row_shape). Raises NotDoneError when any is missing or skipped."""
        return self.read_rows(name, np.arange(self.part.num_rows))

    def _array(self, name: str) -> zarr.Array:
        if name not in self.arrays:  # perhaps made since we opened
            self.arrays = _open_arrays(self.product)
        if name not in self.arrays:
            raise DamagedError(f"{self.product.path} has no array {name!r}, it has: {', '.join(self.arrays)}")
        return self.arrays[name]


def _open_arrays(product: ProductDir) -> dict[str, zarr.Array]:
    arrays = {}
    for path in sorted((product.path / "arrays.zarr").glob("*/zarr.json")):
        _check_metadata(path, product.part)
        try:
            array = zarr.open_array(path.parent, mode="r+", zarr_format=3)
        except Exception as error:  # whatever Zarr makes of JSON that it did not write
            raise DamagedError(f"{path}: {error!r}") from error
        # so that a row of zeros is written, and absence always means loss
        arrays[path.parent.name] = array.with_config({"write_empty_chunks": True})
    return arrays


def _layout_of(spec: ArraySpec, part) -> tuple:
    unit = (part.rows_per_unit, *spec.row_shape)
    chunks, shards = ((1, *spec.row_shape), unit) if spec.chunk == "row" else (unit, None)
    return (part.num_rows, *spec.row_shape), np.dtype(spec.dtype), chunks, shards


def _layout(array: zarr.Array) -> tuple:
    return array.shape, array.dtype, array.chunks, array.shards


def _write_metadata(root: Path, specs: list[ArraySpec], part) -> None:
    """Write the zarr.json of the group and of some arrays. Zarr syncs nothing, and after a power cut its own files
    may be there and empty; so they are drafted elsewhere, and what comes into the store comes whole."""
    with TemporaryDirectory() as folder:
        draft = Path(folder) / root.name
        zarr.create_group(draft, zarr_format=3)
        for spec in specs:
            _create_array(draft, spec, part)
        for file in sorted(draft.glob("**/zarr.json")):
            target = root / file.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                write_file(target, file.read_bytes())


def _create_array(root: Path, spec: ArraySpec, part):
    shape, dtype, chunks, shards = _layout_of(spec, part)
    zarr.create_array(
        root,
        name=spec.name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        serializer=BytesCodec(endian="little"),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=math.nan if dtype.kind == "f" else 0,
        zarr_format=3,
    )


def _shard(unit: int, ndim: int) -> str:
    """Where Zarr puts a unit: the default chunk key encoding."""
    return "/".join(["c", str(unit), *["0"] * (ndim - 1)])


def _clear(folder: Path, unit: int):
    """Remove what a killed writer left of a unit: Zarr would merge a short last shard with it."""
    shutil.rmtree(folder / str(unit), ignore_errors=True)
    for path in [folder / str(unit), *folder.glob(f"{unit}.*.partial")]:
        path.unlink(missing_ok=True)


def _check_metadata(path: Path, part):
    """Read zarr.json by ourselves first: known codecs only, the plan's number of rows, sizes that a unit can have."""
    num_rows = part.num_rows
    try:
        content = json.loads(path.read_bytes())
        names = set(_codec_names(content["codecs"]))
        if content["zarr_format"] != 3 or not names <= CODECS:
            raise DamagedError(f"{path}: Zarr v3 with codecs {sorted(CODECS)} expected, found {sorted(names)}")
        if content["shape"][0] != num_rows:
            raise DamagedError(f"{path}: {content['shape'][0]} rows, the plan has {num_rows}")
        if content.get("storage_transformers"):
            raise DamagedError(f"{path}: storage transformers are not ours")
        chunk = content["chunk_grid"]["configuration"]["chunk_shape"]
        row_bytes = math.prod(content["shape"][1:]) * np.dtype(content["data_type"]).itemsize
        if row_bytes > MAX_ROW_BYTES or chunk[1:] != content["shape"][1:] or not 0 < chunk[0] <= part.rows_per_unit:
            raise DamagedError(f"{path}: rows of {row_bytes} bytes in chunks of {chunk} are not a unit of the plan")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: {error!r}") from error


def _codec_names(codecs: list[dict]):
    for codec in codecs:
        yield codec["name"]
        for field in ("codecs", "index_codecs"):
            yield from _codec_names(codec.get("configuration", {}).get(field, []))


def _check_version():
    if tuple(map(int, re.findall(r"\d+", zarr.__version__)[:3])) < OLDEST_ZARR:
        raise RuntimeError(f"zarr {zarr.__version__} can tear chunks when killed, 3.1.3 or later is needed")
