"""Results and the miniature's truth, printed for a person."""

from pathlib import Path

import click
import pandas as pd

from pipeline.config import Config
from pipeline.recipes.miniature_proof import best_without_print, prove, share_on_target
from pipeline.run.folder import Workspace

PERCENT = ["map", "map_official", "map_windowed", "boxes_on_target"]
VIEWS = (("input", "on the input"), ("enlarged", "on the enlarged input"), ("focused", "on the focused volume"))


def print_results(path: Path) -> None:
    """The table of results.csv, and the protocols behind it."""
    table = pd.read_csv(path)
    table[PERCENT] *= 100
    shown = ["experiment", "seed", *PERCENT[:3], "num_videos", "num_missing", PERCENT[3]]
    click.echo(table[shown].to_string(index=False, float_format=lambda value: f"{value:.1f}", na_rep="-"))
    for text in table.protocol.unique():
        click.echo(f"mAP in per cent; {text}")


def print_truth(config: Config, run_dir: Path) -> None:
    """Miniature only: who can read the prints, how many boxes without saliency hit, how far colours get."""
    workspace = Workspace(run_dir, config)
    found = prove(workspace)
    read = ", ".join(f"{found[view]:.0%} {where}" for view, where in VIEWS)
    click.echo(f"Truth: told where the cards are, a fixed reader reads {read} of {found['cards']} prints right.")
    for policy in ("random", "center"):
        click.echo(f"{share_on_target(workspace, policy):.0%} of {policy} boxes hold all cards of their clip.")
    best = best_without_print(workspace)
    click.echo(f"Who knows the cards' colours and cannot read their print reaches {100 * best:.1f} mAP at most.")
