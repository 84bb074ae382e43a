"""Volumes in HDF5, of the products context and crops: one file a unit, frames as JPEG or PNG.

A file holds `data` (the frames, one after the other), `offsets` (rows * T + 1) of their beginnings and ends in it, and
`crc32` (rows) of each row's bytes. It is built in memory and named after its content. Rows are local rows. Where clips
have k boxes, a row has k volumes one after the other: rows * k * T frames.
"""

import hashlib
import io
import math
import os
import zlib
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np

from cache.commit import storage_errors, sync_directory
from cache.errors import DamagedError
from cache.layout import MOST_BOXES
from cache.stores.frame_codec import decode_frame, encode_volume
from cache.stores.product_folder import ProductDir

CHUNK = 1 << 16  # bytes of `data` that are read and checked together
OPEN_FILES = 64  # at most, in a process and store
_DATASETS = {"data": "uint8", "offsets": "int64", "crc32": "uint32"}


def build_unit(rows: list[list[bytes]], attrs: dict) -> bytes:
    """The bytes of a unit's HDF5 file, equal for equal arguments.

    rows has the encoded frames of every row, b"" for each frame of a skipped video; attrs T, size, codec, quality,
    first_row and, where it is not 1, num_boxes.
    """
    frames = [frame for row in rows for frame in row]
    data = np.frombuffer(b"".join(frames), np.uint8)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        # fletcher32 works on chunks, and no data has none
        checked = {"chunks": (min(CHUNK, len(data)),), "fletcher32": True} if len(data) else {}
        offsets, crc32 = _index(rows)
        for name, values in (("data", data), ("offsets", offsets), ("crc32", crc32)):
            file.create_dataset(name, data=values, track_times=False, **(checked if name == "data" else {}))
            file.flush()  # or the place in the file would depend on who still holds a reference, such as a profiler
        for name, value in attrs.items():
            file.attrs[name] = np.bytes_(value) if isinstance(value, str) else np.asarray(value, np.int64)
    return buffer.getvalue()


def unit_bytes(data_bytes: int, num_rows: int, num_frames: int) -> int:
    """Estimate the size of a file of `build_unit`: data in whole chunks, offsets, checksums, and HDF5's own tables."""
    chunks = math.ceil(data_bytes / CHUNK)
    data = chunks * CHUNK if chunks > 1 else data_bytes
    return data + 8 * (num_rows * num_frames + 1) + 4 * num_rows + 4400 + 46 * chunks


def _index(rows: list[list[bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """offsets int64 (rows * T + 1) and crc32 uint32 (rows) of encoded frames."""
    offsets = np.cumsum([0, *(len(frame) for row in rows for frame in row)], dtype=np.int64)
    return offsets, np.array([zlib.crc32(b"".join(row)) for row in rows], np.uint32)


def _index_sha256(offsets: np.ndarray, crc32: np.ndarray) -> str:
    """Quick identity of a file's content; the commit record has it, so that swapped files are noticed."""
    return hashlib.sha256(offsets.astype("<i8").tobytes() + crc32.astype("<u4").tobytes()).hexdigest()


class VolumeStore:
    """Volumes of one product of one plan part.

    Every process opens its own files on first use, so a store may be pickled or inherited by a fork.
    """

    def __init__(self, product: ProductDir):
        self.product, self.part = product, product.part
        self.num_boxes, self.size = _num_boxes(product), self.part.input_size
        self.num_frames = self.part.num_frames * self.num_boxes  # of a row
        self.codec, self.quality = product.settings["codec"], product.settings.get("quality", 0)
        self._files, self._pid = OrderedDict(), os.getpid()
        self._has_folder = False  # volumes/, whose name is durable

    def __getstate__(self):
        return self.__dict__ | {"_files": OrderedDict()}

    def encode(self, frames: np.ndarray) -> list[bytes]:
        """Encode a volume, uint8 (T, H, W, 3) RGB, with the codec of this store; k T frames with k boxes."""
        wanted = (self.num_frames, *self.size, 3)
        if frames.shape != wanted:
            raise ValueError(f"a volume of {self.product.product} is {wanted}, got {frames.shape}")
        return encode_volume(frames, self.codec, self.quality)

    def write_unit(self, unit: int, rows: list[list[bytes] | None], skipped=()) -> bool:
        """Write the file of a unit and commit it as `ProductDir.commit`, while `product.lock(unit)` is held.

        rows has `encode` of every row of the unit; None for rows of skipped videos.
        """
        planned, failed = self.part.unit_rows(unit), {skip["video_id"] for skip in skipped}
        if len(rows) != len(planned):
            raise ValueError(f"unit {unit} has {len(planned)} rows, got {len(rows)}")
        for row, frames in zip(planned, rows, strict=True):
            if (frames is None) != (self.part.video_ids[row] in failed):
                raise ValueError(f"row {row} of unit {unit}: exactly the rows of skipped videos are None")
            if frames is not None and (len(frames) != self.num_frames or not all(frames)):
                raise ValueError(f"row {row} of unit {unit} needs {self.num_frames} encoded frames, got {len(frames)}")
        rows = [row or [b""] * self.num_frames for row in rows]
        data = build_unit(rows, self._attrs(planned.start))
        if not self._has_folder:
            with storage_errors(self.product.path):
                (self.product.path / "volumes").mkdir(exist_ok=True)
                sync_directory(self.product.path)
            self._has_folder = True
        files = self.product.write("volumes", {f"{unit:06d}-{hashlib.sha256(data).hexdigest()[:16]}.h5": data})
        return self.product.commit(unit, files, skipped, index_sha256=_index_sha256(*_index(rows)))

    def volume(self, row: int) -> np.ndarray:
        """The volume of a local row, uint8 (T, H, W, 3) RGB; with k boxes their volumes, (k, T, H, W, 3).

        Raises as `ProductDir.check_row`; DamagedError where the row's bytes, checked on every read, are not as written.
        """
        self.product.check_row(row)
        unit, place = divmod(row, self.part.rows_per_unit)
        data, offsets, crc32, path = self._open(unit)
        ends = offsets[place * self.num_frames : (place + 1) * self.num_frames + 1]
        try:
            content = data[ends[0] : ends[-1]].tobytes()
        except OSError as error:
            raise DamagedError(f"{path}, row {row}: {error}") from error
        if zlib.crc32(content) != crc32[place]:
            raise DamagedError(f"{path}, row {row}: CRC32 does not fit")
        frames = np.empty((self.num_frames, *self.size, 3), np.uint8)
        for t in range(self.num_frames):
            picture = content[ends[t] - ends[0] : ends[t + 1] - ends[0]]
            frames[t] = decode_frame(picture, self.codec, self.size, f"{path}, row {row}, frame {t}")
        return frames if self.num_boxes == 1 else frames.reshape(self.num_boxes, -1, *frames.shape[1:])

    def close(self) -> None:
        """Close the files that this process has open."""
        if self._pid == os.getpid():
            for data, *_ in self._files.values():
                data.file.close()
        self._files, self._pid = OrderedDict(), os.getpid()

    def _attrs(self, first_row: int) -> dict:
        attrs = {"T": self.part.num_frames, "size": list(self.size), "codec": self.codec, "quality": self.quality}
        return attrs | {"first_row": first_row} | ({"num_boxes": self.num_boxes} if self.num_boxes > 1 else {})

    def _open(self, unit: int) -> tuple:
        """(data, offsets, crc32, path) of a unit: an open dataset, two lists, the path of its file."""
        if self._pid != os.getpid():  # after a fork the open files belong to the parent
            self.close()
        if unit not in self._files:
            record = self.product.checked_record(unit)
            self.product.fetch(unit)
            path = self.product.path / record["files"][0]["name"]
            rows = self.part.unit_rows(unit)
            data, offsets, crc32 = _open_checked(path, len(rows), self._attrs(rows.start))
            if _index_sha256(offsets, crc32) != record.get("index_sha256"):
                raise DamagedError(f"{path}: its offsets and checksums are not those of its record")
            self._files[unit] = data, offsets.tolist(), crc32.tolist(), str(path)
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1][0].file.close()
        self._files.move_to_end(unit)
        return self._files[unit]


def _num_boxes(product: ProductDir) -> int:
    """How many boxes, and so volumes, a row has, by the settings of the boxes that they were cut at."""
    boxes = product.settings.get("boxes", {})
    found = boxes.get("num_boxes", 1) if isinstance(boxes, dict) else None
    if type(found) is not int or not 1 <= found <= MOST_BOXES:
        raise DamagedError(f"{product.path}: settings.boxes.num_boxes is {found!r}, expected 1 to {MOST_BOXES}")
    return found


def _open_checked(path: Path, num_rows: int, attrs: dict) -> tuple[h5py.Dataset, np.ndarray, np.ndarray]:
    """Open the file of a unit; refuse whatever `build_unit` would not have written, before anything is allocated."""
    try:
        # no chunk cache: it would cost a megabyte per file, and rows are read in one piece
        file = h5py.File(path, "r", rdcc_nbytes=0)
        if set(file) != set(_DATASETS):
            raise DamagedError(f"{path}: datasets {sorted(file)}, expected {sorted(_DATASETS)}")
        for name, dtype in _DATASETS.items():
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise DamagedError(f"{path}: {name} is a link to elsewhere")
            dataset = file[name]
            if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
                raise DamagedError(f"{path}: {name} keeps its data elsewhere")
            if dataset.ndim != 1 or dataset.dtype != dtype or dataset.nbytes > path.stat().st_size:
                raise DamagedError(f"{path}: {name} is {dataset.dtype} {dataset.shape}, more than the file holds")
        for name, value in attrs.items():
            found = file.attrs[name]
            found = found.decode() if isinstance(found, bytes) else np.asarray(found).tolist()
            if found != value:
                raise DamagedError(f"{path}: attribute {name} is {found!r}, expected {value!r}")
        offsets, crc32 = file["offsets"][:], file["crc32"][:]
        whole = offsets[0] == 0 and offsets[-1] == len(file["data"]) and (np.diff(offsets) >= 0).all()
        if len(offsets) != num_rows * attrs["T"] * attrs.get("num_boxes", 1) + 1 or len(crc32) != num_rows or not whole:
            raise DamagedError(f"{path}: offsets or crc32 do not fit {num_rows} rows and the data")
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from error
    return file["data"], offsets, crc32
