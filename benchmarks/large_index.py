"""Row 12: the index of a million rows opens; what is left to do in 20,000 units is decided."""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from benchmarks.result import Result
from cache.plan import Part
from cache.plan_files import read_plan, write_part
from cache.stores.open_product import open_product

ROWS, PER_VIDEO, VIDEOS_PER_UNIT = 1_000_000, 25, 2
SECONDS, BYTES, DECIDING = 3.0, 1e9, 2.0
CHILD = """
import json, sys, time
start = time.perf_counter()
import cache
index = cache.open(sys.argv[1]).index
seconds = time.perf_counter() - start
from pipeline.workers.peak_memory import peak_bytes
print(json.dumps({"seconds": seconds, "bytes": peak_bytes(), "rows": len(index), "last": index.video_id.iat[-1]}))
"""


def measure() -> Result:
    """Open in a fresh process, whose imports and whole memory count. There is a plan, but no store."""
    with TemporaryDirectory() as folder:
        run = Path(folder)
        write_part(run, Part("part-000-train", "train", planned_rows(), PER_VIDEO, VIDEOS_PER_UNIT, {"num_frames": 16}))
        command = [sys.executable, "-c", CHILD, str(run)]
        found = [json.loads(subprocess.check_output(command)) for _ in range(3)]
        seconds, size = (float(np.median([one[name] for one in found])) for name in ("seconds", "bytes"))
        (part,) = read_plan(run)
        product = open_product(run, "boxes", part, {})
        for unit in range(0, part.num_units, 2):
            (product.path / "done" / f"{unit:06d}.json").touch()  # only their names count
        start = time.perf_counter()
        todo = product.todo()
        deciding = time.perf_counter() - start
    whole = found[0]["rows"] == ROWS and found[0]["last"] == _video(ROWS - 1)
    whole = whole and todo == list(range(1, part.num_units, 2))
    return Result(
        name=f"index of {ROWS:,} rows opened in a fresh process; what is left of {part.num_units:,} units decided",
        ours=seconds,
        theirs=None,
        ratio=seconds / SECONDS,
        goal=f"≤ {SECONDS:g} s, ≤ 1 GB; ≤ {DECIDING:g} s",
        met=whole and seconds <= SECONDS and size <= BYTES and deciding <= DECIDING,
        agreement=f"{size / 1e6:.0f} MB at the peak; {len(todo):,} units left, decided in {deciding * 1000:.0f} ms",
        extra={"peak_bytes": size, "deciding": deciding},
    )


def _video(row: int) -> str:
    return f"V{row // PER_VIDEO:06d}"


def planned_rows(first: int = 0, num_videos: int = ROWS // PER_VIDEO) -> pd.DataFrame:
    """Rows as `prepare` would plan them, for videos of 30 seconds at 480 x 270; the first one has this number."""
    row = np.arange(num_videos * PER_VIDEO)
    number, videos = row // PER_VIDEO, range(first, first + num_videos)
    names = pd.Series([f"V{one:06d}" for one in videos])[number].reset_index(drop=True)
    hashes = pd.Series([f"{one:064x}" for one in videos])[number].reset_index(drop=True)
    same = {"split": "train", "clip_index": 0, "num_frames": 240, "fps": 8.0, "source_height": 270, "source_width": 480}
    same |= {"theta_resized_height": 256, "theta_resized_width": 256, "video_timing": "pts"}
    same |= {"theta_input_height": 224, "theta_input_width": 224}
    drawn = {"frame_start": row % 177, "theta_crop_top": row % 33, "theta_crop_left": row % 31}
    drawn |= {"aug_index": row % PER_VIDEO, "theta_flip": row % 2 == 0, "video_bytes": 1000 + number}
    texts = {"video_id": names, "video_path": names + ".mp4", "video_sha256": hashes}
    return pd.DataFrame(texts | drawn | same)
