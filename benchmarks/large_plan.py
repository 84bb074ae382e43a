"""A plan of 100 million rows on a laptop: opened, asked for a video and for what is left, in a process of its own.

The plan files are generated: parts of a million rows as `prepare` writes them. It takes some minutes and
a gigabyte of disk.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.large_index import PER_VIDEO, ROWS, VIDEOS_PER_UNIT, planned_rows
from cache.plan import Part
from cache.plan_files import read_plan, write_part
from cache.stores.open_product import open_product

MOST = 4e9  # bytes that the process may take
CHILD = """
import json, sys, time
from pipeline.workers.peak_memory import peak_bytes
start = time.perf_counter()
import cache
from cache.stores.open_product import find_product
run = cache.open(sys.argv[1])
found = {"opened": time.perf_counter() - start}
start = time.perf_counter()
rows = run.rows_of(sys.argv[2])
found |= {"video": time.perf_counter() - start, "video_rows": len(rows)}
start = time.perf_counter()
left = sum(len(find_product(run.path, "boxes", part, {}).todo()) for part in run.parts)
found |= {"left": time.perf_counter() - start, "units_left": left, "rows": run.num_rows, "bytes": peak_bytes()}
print(json.dumps(found))
"""


@click.command()
@click.option("--parts", default=100, help="Of a million rows each.")
@click.option("--folder", type=click.Path(path_type=Path), help="For the plan.  [default: a temporary one]")
def main(parts: int, folder: Path | None) -> None:
    """Generate a large plan, and print how long its reader takes and how much memory."""
    with TemporaryDirectory(dir=folder) as name:
        run = Path(name)
        for number in range(parts):
            rows = planned_rows(number * ROWS // PER_VIDEO)
            write_part(
                run, Part(f"part-{number:03d}-train", "train", rows, PER_VIDEO, VIDEOS_PER_UNIT, {"num_frames": 16})
            )
            print(f"\r{number + 1} of {parts} parts", end="", file=sys.stderr, flush=True)
        for part in read_plan(run)[: parts // 2]:  # of half of the parts everything is done; only names count
            product = open_product(run, "boxes", part, {})
            for unit in range(part.num_units):
                (product.path / "done" / f"{unit:06d}.json").touch()
        video = rows.video_id.iat[-1]
        found = json.loads(subprocess.check_output([sys.executable, "-c", CHILD, str(run), video]))
        size = sum(path.stat().st_size for path in (run / "plan").iterdir())
    units = (parts - parts // 2) * -(-ROWS // (PER_VIDEO * VIDEOS_PER_UNIT))
    right = (found["rows"], found["video_rows"], found["units_left"]) == (parts * ROWS, PER_VIDEO, units)
    print(f"\n{found['rows']:,} rows, {size / 1e9:.1f} GB of plan files: opened in {found['opened']:.1f} s")
    print(f"the rows of a video in {found['video']:.1f} s")
    print(f"the {found['units_left']:,} units that are left in {found['left']:.1f} s")
    print(f"{found['bytes'] / 1e9:.2f} GB at the peak")
    raise SystemExit(0 if right and found["bytes"] <= MOST else 1)


if __name__ == "__main__":
    main()
