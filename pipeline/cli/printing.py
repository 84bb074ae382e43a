"""What commands print."""

import logging
import re
import sys
from pathlib import Path

import click

from pipeline.errors import EXIT_SKIPPED
from pipeline.workers.rank import is_first_process

PERCENT = ["map", "map_official", "map_windowed", "boxes_on_target"]
ACCURACIES = ["top1", "top5", "mean_class_accuracy"]  # of single labels; empty where labels may be many
LONGEST = 4000  # characters of a line
FORMULA = ("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}", "\N{FULLWIDTH COMMERCIAL AT}")
# what steers a terminal or turns the direction of text, and what cannot be encoded; not tab and line feed
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
VIEWS = (("input", "on the input"), ("enlarged", "on the enlarged input"), ("focused", "on the focused volume"))


def escaped(text: str) -> str:
    """Return text of any source, such as class names and file names, with what could steer a terminal written out."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def echo(text: object = "", err: bool = False, mark: str = "", colour: str | None = None) -> None:
    """Print text for people, escaped, no line longer than LONGEST; a mark before it may have a colour."""
    lines = escaped(str(text)).split("\n")
    lines = [line if len(line) <= LONGEST else f"{line[:LONGEST]}... ({len(line)} characters)" for line in lines]
    click.echo(click.style(mark, fg=colour) + "\n".join(lines), err=err)


class EscapedLines(logging.Formatter):
    """Formats log messages as `echo` prints text."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))


def spreadsheet_safe(table):
    """Return a pandas table whose text no spreadsheet takes for a formula: escaped, an apostrophe before = + - @."""
    from pandas.api.types import is_object_dtype, is_string_dtype

    text = [name for name, column in table.items() if is_object_dtype(column) or is_string_dtype(column)]
    return table.assign(**{name: table[name].map(_safe_cell) for name in text})


def _safe_cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    return f"'{escaped(cell)}" if cell.lstrip().startswith(FORMULA) else escaped(cell)


def print_outcome(outcome) -> None:
    """Say what was written; of several processes of torchrun only the first does."""
    from cache.remote.fetch import remote_of

    if is_first_process():
        remote = remote_of(outcome.path.parent)  # of a working folder, where the run is in object storage
        echo(f"wrote {remote.url_of(outcome.path) if remote else outcome.path}: {outcome.summary}")


def finish(*outcomes) -> None:
    """Say what was written, and exit with 3 if videos were left out."""
    for outcome in outcomes:
        print_outcome(outcome)
    exit_if_skipped(*outcomes)


def exit_if_skipped(*outcomes) -> None:
    """Exit with 3 if videos were left out."""
    if skipped := max(outcome.num_skipped for outcome in outcomes):
        for line in "\n".join(filter(None, (outcome.left_out for outcome in outcomes))).splitlines():
            echo(line, err=True)
        where = "" if all(outcome.left_out for outcome in outcomes) else "; see skipped.csv and the messages above"
        echo(f"{skipped} video(s) left out{where}", err=True)
        sys.exit(EXIT_SKIPPED)


def print_results(path: Path) -> None:
    """Print results.csv as a table, and its protocols; of several processes of torchrun only the first does."""
    if not is_first_process():
        return
    import pandas as pd

    table = pd.read_csv(path)
    current = table.superseded.isna()
    single = table.top1.notna().any()
    percent = [*ACCURACIES, PERCENT[0], PERCENT[3]] if single else PERCENT
    table[percent] *= 100
    shown = ["experiment", "seed", *percent[:-1], "num_videos", "num_missing", percent[-1]]
    echo(table.loc[current, shown].to_string(index=False, float_format=lambda value: f"{value:.1f}", na_rep="-"))
    for text in table.protocol[current].unique():
        echo(f"{'Accuracies and mAP' if single else 'mAP'} in per cent; {text}")
    if not current.all():
        others = f"{(~current).sum()} more in {path} are superseded"
        echo(f"{others}: made with other labels, videos or networks than the run has now")


def print_truth(config, run_dir: Path) -> None:
    """For the miniature: print how well its cards' prints can be read, with which boxes, and what colours tell."""
    from pipeline.recipes.miniature_proof import best_without_print, prove, share_on_target
    from pipeline.run.folder import open_folder

    run, prints = open_folder(run_dir, config), config.data.world != "photos"
    if prints:
        found = prove(run, config)
        read = ", ".join(f"{found[view]:.0%} {where}" for view, where in VIEWS)
        echo(f"Truth: told where the cards are, a fixed reader reads {read} of {found['cards']} prints right.")
    for policy in ("random", "center"):
        echo(f"{share_on_target(run, config, policy):.0%} of {policy} boxes hold all cards of their clip.")
    if not prints:
        return
    best = 100 * best_without_print(config)
    reached = f"{best:.1f} mAP" if config.data.task == "multi_label" else f"a top-1 accuracy of {best:.1f}"
    echo(f"Who knows the cards' colours and cannot read their print reaches {reached} at most.")
