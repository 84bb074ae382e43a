"""The command line: options become a frozen config, the config goes to one stage, and what it wrote is said."""

import logging
import os
from pathlib import Path

import click

from pipeline.cli import inspect, preflight, recipes, report, stages, upkeep
from pipeline.cli.options import (
    finish,
    stage_options,
)
from pipeline.cli.stages import _prepare

# Stages are imported inside their commands, so that --help needs neither torch nor a video decoder.


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Focused attention for video: saliency to Zarr, crops to HDF5, fusion models trained from both.

    Every command takes --config (a TOML file, or `miniature`, `charades`, `charades-small`) and --run (the folder it
    reads and writes). Repeating a command goes on where it stopped.

    Exit codes: 0 all done, 2 wrong usage, 3 done but some videos were left out, 4 input refused, 5 storage refused,
    6 the run was made with other settings, 7 verify found damage.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org; without a terminal click strips colours by itself
        click.get_current_context().color = False
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)


for group in (stages, inspect, report, preflight, recipes, upkeep):
    for command in group.COMMANDS:
        main.add_command(command)


@main.command()
@stage_options
def demo(config, run_dir: Path) -> None:
    """All stages in a row, from annotations to the table of results."""
    from pipeline.cli.printing import print_results, print_truth
    from pipeline.stages import crops, evaluate, saliency, train_base, train_fusion

    outcomes = []
    for stage in (
        lambda: _prepare(config, run_dir),
        lambda: train_base.run(config, run_dir),
        lambda: saliency.run(config, run_dir),
        lambda: crops.run(config, run_dir, ("entropy",)),
        lambda: train_fusion.run(config, run_dir, "late"),
        lambda: train_fusion.run(config, run_dir, "concat"),
        lambda: evaluate.run(config, run_dir),
    ):
        outcomes.append(stage())
        click.echo(f"wrote {outcomes[-1].path}: {outcomes[-1].summary}")
    print_results(outcomes[-1].path)
    if config.data.format == "miniature":
        print_truth(config, run_dir)
    click.echo(f"Look: {run_dir / 'results.csv'}, and cache.open({str(run_dir)!r}).index in Python; see README.md.")
    finish(*(outcome for outcome in outcomes if outcome.num_skipped))
