"""The names in a run folder: its products and tables, and where records, arrays and locks lie."""

import re
from pathlib import Path
from typing import Literal

ARRAY_PRODUCTS = ("base", "maps", "boxes")  # one row of numbers a clip, in Zarr
VOLUME_PRODUCTS = ("context", "crops")  # one volume of frames a clip, in HDF5
PRODUCTS = ARRAY_PRODUCTS + VOLUME_PRODUCTS

ARRAYS = "arrays.zarr"  # in the folder of an array product
TABLES = ("stores", "index", "classes", "videos", "skipped")  # of `cache.tables`
Codec = Literal["jpeg", "png"]  # of the frames of volumes
LOSSLESS: tuple[Codec, ...] = ("png",)  # have no quality that could change a byte
MOST_BOXES = 64  # of a clip
RUN_LOCK = ".lock"  # in the run folder
SEGMENT = re.compile(r"[0-9a-f]{16}\.jsonl")  # of records, in done/segments/: the first digits of its SHA-256
RECORD_OF = {  # table -> the record beside it that has its SHA-256
    **dict.fromkeys(("videos.csv", "labels.csv", "classes.txt", "frame_times.csv"), "tables.json"),
    "skipped.csv": "skipped.json",
    "results.csv": "results.json",
    "metrics.csv": "training.json",
    "cards.csv": "cards.json",  # in the folder of the miniature's videos
}
RESULTS = f"results/[!.]*-{'[0-9a-f]' * 16}.json"  # the record of each, in the run folder
RECORDS = (  # of trained networks, of results and of tables
    *("models/*/base.json", "models/*/model.json", "models/*/looker.json", "models/*/training.json"),
    *(RESULTS, "results.json", "tables.json", "skipped.json"),
)
KEY = re.compile(r"[0-9a-f]{16}")  # the name of a product's folder
GENERATION = re.compile(r"generation-[0-9]{3,}")  # beside a model: the run folder of caches renewed in training
SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def record_path(folder: Path, unit: int) -> Path:
    """The commit record of a unit, in the folder of its product."""
    return folder / "done" / f"{unit:06d}.json"


def boxes_name(policy: str, rule: str = "fixed", num_boxes: int = 1, time_segments: int = 1, looks: int = 1) -> str:
    """What boxes are called: "entropy" for one of a fixed size, "entropy-top2", "-scale", "-tube4", "-looks3"."""
    if time_segments > 1 or looks > 1:
        return f"{policy}-tube{time_segments}" if time_segments > 1 else f"{policy}-looks{looks}"
    return policy if rule == "fixed" else f"{policy}-top{num_boxes}" if rule == "top-k" else f"{policy}-{rule}"


def is_file_name(name) -> bool:
    """Whether a name is a relative path as this package makes them: no "..", nothing absolute, empty, hidden or odd."""
    return isinstance(name, str) and bool(_FILE_NAME.fullmatch(name))
