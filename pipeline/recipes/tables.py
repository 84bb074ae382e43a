"""Tables of results as CSV, Markdown and HTML."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cache.commit import write_file
from pipeline.run.outcome import Outcome

Cell = str | int | float | bool | None
STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}td:first-child{text-align:left}"


@dataclass(frozen=True)
class Table:
    """A title; lines of cells by column, None for no value, all with the same columns, one of them num_seeds; notes."""

    title: str
    lines: list[dict[str, Cell]]
    notes: tuple[str, ...] = ()


def write_tables(run_dir: Path, tables: Mapping[str, Table], num_skipped: int) -> Outcome:
    """Write every table to report/<name>.csv, and all together to .md and .html files named after the first.

    The CSV files have four digits and empty cells for missing values.

    Returns:
        Outcome with the Markdown file and num_skipped, the number of videos left out.
    """
    folder = run_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_file(folder / f"{name}.csv", _frame(table).to_csv(index=False, lineterminator="\n").encode())
    name, first = next(iter(tables.items()))
    write_file(folder / f"{name}.md", "\n".join(map(_markdown, tables.values())).encode())
    head = f'<!doctype html><meta charset="utf-8"><title>{html.escape(first.title)}</title><style>{STYLE}</style>'
    write_file(folder / f"{name}.html", "\n".join([head, *map(_html, tables.values()), ""]).encode())
    return Outcome(folder / f"{name}.md", f"{len(first.lines)} lines", num_skipped)


def _frame(table: Table, readable: bool = False) -> pd.DataFrame:
    """All cells as text: for programs with four digits, for readers with two and a word for a missing value."""
    rows, digits = [], 2 if readable else 4
    for line in table.lines:
        missing = "" if not readable else "not run" if line["num_seeds"] == 0 else "-"
        rows.append({name: missing if cell is None else _text(cell, digits) for name, cell in line.items()})
    return pd.DataFrame(rows)


def _text(cell: Cell, digits: int) -> str:
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)


def _markdown(table: Table) -> str:
    frame = _frame(table, readable=True)
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.to_numpy()]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"## {table.title}\n\n{text}" + "".join(f"\n{note}\n" for note in table.notes)


def _html(table: Table) -> str:
    with pd.option_context("display.max_colwidth", None):  # pandas shortens long cells by default
        body = _frame(table, readable=True).to_html(index=False, border=0)
    notes = [f"<p>{html.escape(note)}</p>" for note in table.notes]
    return "\n".join([f"<h2>{html.escape(table.title)}</h2>", body, *notes])
