"""`python -m benchmarks.scaling`: measure what units and rows cost on this machine, and write the page about scale."""

import shutil
import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import click
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import TypeAdapter

from benchmarks import row_costs, start_costs, unit_costs
from benchmarks.machine import description
from benchmarks.networks import SIDE
from benchmarks.result import check_out
from benchmarks.row_costs import FRAMES, RowCost
from benchmarks.scale import DataSet, Site
from benchmarks.unit_costs import Costs
from pipeline.config_file import load

TRAIN, EVALUATION = 7985, 1863  # videos of Charades
WORKERS = (10, 100, 1000)
ASSUMED = {one.name: one for one in fields(Site) if one.metadata}


@dataclass(frozen=True)
class Measured:
    """What is kept beside the page. `machine` is a line about what was measured on."""

    costs: Costs
    row: RowCost
    machine: str


KEPT = TypeAdapter(Measured)


def page(found: Measured, site: Site, sets: list[DataSet]) -> str:
    """The page in Markdown, from scaling.md.jinja."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, and nothing from outside
    )
    environment.filters["number"] = lambda value, digits=0: f"{value:,.{digits}f}"
    return environment.get_template("scaling.md.jinja").render(
        costs=found.costs,
        row=found.row,
        machine=found.machine,
        site=site,
        sets=sets,
        works=site.works(found.costs, found.row),
        options={name: one.metadata["help"] for name, one in ASSUMED.items()},
        numbers=WORKERS,
        frames=FRAMES,
        side=SIDE,
    )


def _measure(videos: int) -> Measured:
    if shutil.which("strace") is None:
        raise click.ClickException("strace, which counts operations on metadata, is not installed: apt install strace")
    with tempfile.TemporaryDirectory() as units, tempfile.TemporaryDirectory() as rows:
        print("starts of stages, 2,000 units", file=sys.stderr, flush=True)
        at_start = {stage: gathered for stage, (_, gathered) in start_costs.measure().items()}
        costs = unit_costs.measure(Path(units).resolve(), videos, at_start)
        print("rows of the paper's size, on one core", file=sys.stderr, flush=True)
        return Measured(costs, row_costs.measure(Path(rows).resolve()), description())


def _assumptions(command):
    for name, one in reversed(ASSUMED.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, default=one.default, show_default=True, help=one.metadata["help"])(command)
    return command


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
    kept = out.with_suffix(".json")
    check_out(out, "make scaling", "Written by `make scaling`")
    check_out(kept, "make scaling", '"costs"')
    if not again or not kept.exists():
        kept.write_bytes(KEPT.dump_json(_measure(videos), indent=2) + b"\n")
    sets = site.data_sets(charades_videos, kinetics_videos, clips)
    out.write_text(page(KEPT.validate_json(kept.read_bytes()), site, sets), encoding="utf-8")
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.scaling")
