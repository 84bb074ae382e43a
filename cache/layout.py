"""The names in a run folder: its products, and where records, arrays and locks lie."""

from pathlib import Path
from typing import Literal

ARRAY_PRODUCTS = ("base", "maps", "boxes")  # one row of numbers a clip, in Zarr
VOLUME_PRODUCTS = ("context", "crops")  # one volume of frames a clip, in HDF5
PRODUCTS = ARRAY_PRODUCTS + VOLUME_PRODUCTS

ARRAYS = "arrays.zarr"  # in the folder of an array product
TABLES = ("stores", "index", "classes", "videos", "skipped")  # of `cache.tables`
Codec = Literal["jpeg", "png"]  # of the frames of volumes
LOSSLESS: tuple[Codec, ...] = ("png",)  # have no quality that could change a byte
RUN_LOCK = ".lock"  # in the run folder
RECORDS = ("models/*/base.json", "models/*/model.json", "results/*.json")  # of trained networks and of results


def record_path(folder: Path, unit: int) -> Path:
    """The commit record of a unit, in the folder of its product."""
    return folder / "done" / f"{unit:06d}.json"
