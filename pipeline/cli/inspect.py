"""`inspect`: the tables of a run, printed for a person or written for a program."""

import shutil
from functools import partial
from pathlib import Path

import click

from cache.commit import storage_errors
from cache.layout import PRODUCTS, RECORD_OF, TABLES
from pipeline.cli.options import stage_options
from pipeline.cli.printing import echo, spreadsheet_safe

LONGEST = 200
# The columns that are printed, few enough for a terminal; a file gets all of them.
SHOWN = {
    "stores": ["product", "name", "part", "units_done", "units", "rows_done", "bytes"],
    "index": [
        *("row", "split", "video_id", "clip_index", "aug_index", "frame_start", "box_source_top", "box_source_left"),
        *("box_source_height", "box_source_width", "saliency_share", "entropy"),
    ],
    "videos": [
        *("video_id", "split", "height", "width", "source_fps", "duration_seconds", "zoom_y", "zoom_x", "labels"),
        *("rows", "saliency_done", "crop_done", "saliency_share"),
    ],
}


@click.command()
@stage_options
@click.option("--table", type=click.Choice(TABLES), help="Which table.  [default: stores; for --out index]")
@click.option("--rows", type=click.IntRange(1), default=20, help="Print so many rows of it.")
@click.option("--out", metavar="FILE", help="Write the whole table as .csv or .parquet.")
@click.option("--use", multiple=True, metavar="PRODUCT=NAME", help="Which store, where a run has several; repeatable.")
def inspect(config, run_dir: Path, table: str | None, rows: int, out: str | None, use: tuple[str, ...]) -> None:
    """Print what a run holds; write its tables as CSV or Parquet.

    In CSV, text that a spreadsheet would take for a formula, such as =1, gets an apostrophe before it, and control
    characters are written out. Parquet holds all text as it is. A file that it did not write is left alone.
    """
    path = Path(out) if out else None
    if path and path.suffix not in (".csv", ".parquet"):
        raise click.BadParameter(f"{out}: a table is written as .csv or .parquet", param_hint="--out")
    import cache
    from cache import tables
    from pipeline.run.overwrite import check_overwrite

    run = cache.open(run_dir, **_chosen(use))
    task = "one label a video, " if config.data.task == "single_label" else ""
    echo(f"{run_dir}: {len(run.videos)} videos, {len(run.skipped)} skipped, {task}{run.num_rows} rows")
    _print(tables.table(run, table or "stores"), SHOWN.get(table or "stores"), rows)
    if path:
        found = tables.table(run, table or "index")
        check_overwrite(path, "inspect", partial(_is_own, run))
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".csv":
                spreadsheet_safe(found).to_csv(path, index=False)
            else:
                found.to_parquet(path, index=False)
        echo(f"wrote {path}: {len(found)} rows")


def _is_own(run, path: Path) -> bool:
    """Whether a file has the columns of one of the tables, and is no table of the run itself."""
    import pandas as pd
    import pyarrow.parquet as pq

    from cache import tables

    try:
        columns = pq.read_schema(path).names if path.suffix == ".parquet" else pd.read_csv(path, nrows=0).columns
    except (ValueError, OSError):  # a file of another kind
        return False
    if path.name in RECORD_OF and (path.parent / RECORD_OF[path.name]).exists():
        return False
    return any(list(tables.table(run, name).columns) == list(columns) for name in TABLES)


def _chosen(use: tuple[str, ...]) -> dict[str, str]:
    """Parse PRODUCT=NAME into keyword arguments of `cache.open`."""
    chosen = {}
    for text in use:
        product, equals, name = text.partition("=")
        if product not in PRODUCTS or not equals or not name:
            raise click.BadParameter(
                f"{text!r} is not PRODUCT=NAME with one of {', '.join(PRODUCTS)}", param_hint="--use"
            )
        chosen[product] = name
    return chosen


def _print(table, columns: list[str] | None, rows: int) -> None:
    """Print the first rows, in lines as wide as the terminal."""
    shown = table[columns] if columns else table
    if len(shown):
        width = shutil.get_terminal_size((160, 24)).columns
        text = shown.head(rows).astype(object).map(_cell)
        echo(text.to_string(index=False, line_width=max(width, 60)))
    else:
        echo("(no rows)")
    if len(shown) > rows:
        echo(f"... and {len(shown) - rows} more rows; --rows prints more, --out FILE writes all")


def _cell(value) -> str:
    """A value as text of at most LONGEST characters; a dash for missing values of every type."""
    if str(value) in ("nan", "<NA>"):
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


COMMANDS = (inspect,)
