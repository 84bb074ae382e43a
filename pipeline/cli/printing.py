"""What commands print."""

import sys
from pathlib import Path

import click

from pipeline.errors import EXIT_SKIPPED
from pipeline.workers.rank import is_first_process

PERCENT = ["map", "map_official", "map_windowed", "boxes_on_target"]
VIEWS = (("input", "on the input"), ("enlarged", "on the enlarged input"), ("focused", "on the focused volume"))


def print_outcome(outcome) -> None:
    """Say what was written; of several processes of torchrun only the first does."""
    if is_first_process():
        click.echo(f"wrote {outcome.path}: {outcome.summary}")


def finish(*outcomes) -> None:
    """Say what was written, and exit with 3 if videos were left out."""
    for outcome in outcomes:
        print_outcome(outcome)
    exit_if_skipped(*outcomes)


def exit_if_skipped(*outcomes) -> None:
    """Exit with 3 if videos were left out."""
    if skipped := max(outcome.num_skipped for outcome in outcomes):
        click.echo(f"{skipped} video(s) left out; see skipped.csv and the messages above", err=True)
        sys.exit(EXIT_SKIPPED)


def print_results(path: Path) -> None:
    """Print results.csv as a table, and its protocols; of several processes of torchrun only the first does."""
    if not is_first_process():
        return
    import pandas as pd

    table = pd.read_csv(path)
    current = table.superseded.isna()
    table[PERCENT] *= 100
    shown = ["experiment", "seed", *PERCENT[:3], "num_videos", "num_missing", PERCENT[3]]
    click.echo(table.loc[current, shown].to_string(index=False, float_format=lambda value: f"{value:.1f}", na_rep="-"))
    for text in table.protocol[current].unique():
        click.echo(f"mAP in per cent; {text}")
    if not current.all():
        others = f"{(~current).sum()} more in {path} are superseded"
        click.echo(f"{others}: they were scored with other labels or videos than the run has now")


def print_truth(config, run_dir: Path) -> None:
    """For the miniature: print how well its cards' prints can be read, with which boxes, and what colours tell."""
    from pipeline.recipes.miniature_proof import best_without_print, prove, share_on_target
    from pipeline.run.folder import open_folder

    run = open_folder(run_dir, config)
    found = prove(run, config)
    read = ", ".join(f"{found[view]:.0%} {where}" for view, where in VIEWS)
    click.echo(f"Truth: told where the cards are, a fixed reader reads {read} of {found['cards']} prints right.")
    for policy in ("random", "center"):
        click.echo(f"{share_on_target(run, config, policy):.0%} of {policy} boxes hold all cards of their clip.")
    best = best_without_print(config)
    click.echo(f"Who knows the cards' colours and cannot read their print reaches {100 * best:.1f} mAP at most.")
