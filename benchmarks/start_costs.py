"""`python -m benchmarks.start_costs`: count what a start asks the file system of finished units, by generated records.

Counted with strace, as in `unit_costs`: what a stage asks of a product before and after its units, with the records in
files of their own, as an older program leaves them, and gathered in segments.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from benchmarks.large_index import PER_VIDEO, planned_rows
from benchmarks.unit_costs import ROOT, TRACED, count_calls
from cache.fingerprint import fingerprint
from cache.plan import Part
from cache.stores.open_product import find_product, open_product
from cache.stores.unit_records import UnitRecords
from cache.upkeep.verify import product_paths

STAGES = {"saliency": ("base", "maps", "boxes"), "crops": ("boxes", "context", "crops")}  # and what each one fills


def plan_part(units: int) -> Part:
    """A part of one video a unit, one row a video."""
    rows = planned_rows().iloc[: units * PER_VIDEO : PER_VIDEO]
    return Part("part-000-train", "train", rows, rows_per_video=1, videos_per_unit=1, settings={"num_frames": 1})


def make(run: Path, units: int) -> None:
    """Commit all units but the last one of every product, without data."""
    part = plan_part(units)
    for name in dict.fromkeys(STAGES["saliency"] + STAGES["crops"]):
        product = open_product(run, name, part, {})
        for unit in range(units - 1):
            files = [{"name": f"volumes/{unit}.h5", "bytes": unit, "sha256": fingerprint({"unit": unit}) * 4}]
            skipped = (
                [{"video_id": part.video_ids[unit], "error": "VideoMissing", "detail": ""}] if unit % 100 == 7 else []
            )
            product.commit(unit, files, skipped)


@contextmanager
def waiting_for_no_disk() -> Iterator[None]:
    """Leave out fsync: what is generated here is thrown away."""
    real, os.fsync = os.fsync, lambda descriptor: None
    try:
        yield
    finally:
        os.fsync = real


def start(run: str, stage: str, units: str) -> None:
    """What a stage asks of each product: what is left, what was left out, how large it is."""
    part = plan_part(int(units))
    for name in STAGES[stage]:
        product = find_product(Path(run), name, part, {})
        assert product.todo() == [part.num_units - 1] and product.skips() and product.num_bytes()


def operations(run: Path, stage: str, units: int) -> float:
    """Operations on metadata at the start of a stage, for each finished unit."""
    log = run.with_suffix(".strace")
    strace = ["strace", "--follow-forks", "--seccomp-bpf", "--decode-fds=path", f"--trace={TRACED}", f"--output={log}"]
    code = "import sys; from benchmarks.start_costs import start; start(*sys.argv[1:])"
    subprocess.run([*strace, sys.executable, "-c", code, str(run), stage, str(units)], cwd=ROOT, check=True)
    return count_calls(log.read_text(errors="replace"), str(run)).total() / (units - 1)


def measure(units: int = 2000) -> dict[str, tuple[float, float]]:
    """By stage, the operations at a start for each finished unit: with a record a file, and gathered in segments.

    Args:
        units: of each product.
    """
    with tempfile.TemporaryDirectory() as folder, waiting_for_no_disk():
        run = Path(folder).resolve() / "run"
        make(run, units)
        products = [UnitRecords(path) for path in product_paths(run)]
        for records in products:
            for name in records.segments():
                records.unfold(records.folder / name)
        before = {stage: operations(run, stage, units) for stage in STAGES}
        for records in products:
            records.fold(fewest=1)
        return {stage: (before[stage], operations(run, stage, units)) for stage in STAGES}


@click.command()
@click.option("--units", default=2000, show_default=True, help="Of each product.")
def main(units: int) -> None:
    """Print the operations on metadata at the start of stages 1 and 2, for each finished unit. Needs strace."""
    for stage, (before, after) in measure(units).items():
        print(f"{stage}, {units} units: {before:.4f} with a record a file, {after:.4f} in segments")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.start_costs")
