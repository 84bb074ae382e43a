"""`python -m benchmarks.scaling`: measure what units and rows cost on this machine, and write the page about scale."""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks import row_costs, unit_costs
from benchmarks.machine import description
from benchmarks.row_costs import RowCost
from benchmarks.scale import Site, data_sets
from benchmarks.scaling_page import page
from benchmarks.unit_costs import Costs, UnitCost
from pipeline.config_file import load

TRAIN, EVALUATION = 7985, 1863  # videos of Charades
ASSUMED = {  # default and help, by the name in Site
    "metadata_rate": (5000.0, "operations on metadata a second that the shared file system answers"),
    "bandwidth": (1e9, "bytes a second of the shared file system"),
    "gpu_flops": (20e12, "FLOP a second that a GPU sustains in this network"),
    "worker_memory": (4e9, "bytes that a worker may take for the plan"),
    "start_seconds": (60.0, "seconds that the start of all workers may take"),
    "video_bytes": (5.6e6, "bytes of a source video (Charades in original size: 55 GB)"),
    "map_bytes": (98e3, "bytes of a stored map (of real videos, see README)"),
    "frame_bytes": (13.4e3, "bytes of a stored frame (likewise)"),
}


def _assumptions(command):
    for name, (value, text) in reversed(ASSUMED.items()):
        option = click.option(f"--{name.replace('_', '-')}", type=float, default=value, show_default=True, help=text)
        command = option(command)
    return command


def _measure(videos: int) -> tuple[Costs, RowCost]:
    with tempfile.TemporaryDirectory() as units, tempfile.TemporaryDirectory() as rows:
        try:
            costs = unit_costs.measure(Path(units).resolve(), videos)
        except FileNotFoundError as error:
            raise click.ClickException(str(error)) from error
        print("rows of the paper's size, on one core", file=sys.stderr, flush=True)
        return costs, row_costs.measure(Path(rows).resolve())


def to_json(costs: Costs, row: RowCost, machine: str) -> str:
    """Measurements as text, to be read by `from_json`."""
    return json.dumps({"costs": asdict(costs), "row": asdict(row), "machine": machine}, indent=2) + "\n"


def from_json(text: str) -> tuple[Costs, RowCost, str]:
    """Read what `to_json` wrote: costs of units and of a row, and the machine."""
    values = json.loads(text)
    costs = values["costs"]
    for stage in ("saliency", "crops"):
        seconds = {int(workers): value for workers, value in costs[stage]["seconds"].items()}
        costs[stage] = UnitCost(**costs[stage] | {"seconds": seconds})
    return Costs(**costs), RowCost(**values["row"]), values["machine"]


@click.command()
@click.option("--out", default="benchmarks/scaling.md", show_default=True, type=click.Path(path_type=Path))
@click.option("--videos", default=32, show_default=True, help="Training videos of the generated data set.")
@click.option("--charades-videos", default=9848, show_default=True, help="Videos of Charades.")
@click.option("--kinetics-videos", default=650_000, show_default=True, help="Videos of Kinetics-700.")
@click.option("--clips", default=100_000_000, show_default=True, help="Clips, that is index rows, of the largest one.")
@click.option("--again", is_flag=True, help="Measure nothing: take the measurements beside the page.")
@_assumptions
def main(
    out: Path, videos: int, again: bool, charades_videos: int, kinetics_videos: int, clips: int, **assumed: float
) -> None:
    """Measure units, bytes and operations on metadata; work out 10, 100 and 1,000 workers. Needs strace."""
    recipe = load("charades").clips
    rows = (TRAIN * recipe.aug_seeds + EVALUATION * recipe.eval_clips) / (TRAIN + EVALUATION)
    site = Site(**assumed, rows_per_video=rows, videos_per_unit=recipe.videos_per_unit)
    found = out.with_suffix(".json")
    if not again or not found.exists():
        found.write_text(to_json(*_measure(videos), description()), encoding="utf-8")
    costs, row, machine = from_json(found.read_text(encoding="utf-8"))
    sets = data_sets(site, charades_videos, kinetics_videos, clips)
    options = {name: text for name, (_, text) in ASSUMED.items()}
    out.write_text(page(costs, row, site, sets, options, machine), encoding="utf-8")
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.scaling")
