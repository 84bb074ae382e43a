"""The command `python -m pipeline`, also called `focused-attention`."""

import logging
import os
import warnings

import click

from pipeline.cli import convert, inspect, predict, preflight, recipes, report, stages, upkeep
from pipeline.cli.options import Commands
from pipeline.cli.printing import EscapedLines
from pipeline.workers.openmp import wait_briefly

# Commands import what they call inside, so that --help needs neither torch nor a video decoder.


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Focused attention for video: saliency to Zarr, crops to HDF5, fusion models trained from both.

    Every command takes --config (a TOML file, or `miniature`, `charades`, `charades-small`) and --run (the folder it
    reads and writes). Repeating a command goes on where it stopped.

    Exit codes: 0 all done, 2 wrong usage, 3 done but some videos were left out, 4 input refused, 5 storage refused,
    6 the run was made with other settings, 7 verify found damage.
    """
    wait_briefly()
    if os.environ.get("NO_COLOR"):  # https://no-color.org; without a terminal click strips colours by itself
        click.get_current_context().color = False
    handler = logging.StreamHandler()
    handler.setFormatter(EscapedLines("%(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    # joblib replaces a process that has grown between two jobs, and loses nothing
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)


for group in (stages, convert, predict, inspect, report, preflight, recipes, upkeep):
    for command in group.COMMANDS:
        main.add_command(command)
