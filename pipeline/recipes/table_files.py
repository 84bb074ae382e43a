"""Tables of results as CSV, Markdown and HTML."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.commit import write_file
from pipeline.run.outcome import Outcome

Cell = str | int | float | bool | None
STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}td:first-child{text-align:left}"


@dataclass(frozen=True)
class Table:
    """What is printed. None is a cell without a value."""

    title: str
    columns: tuple[str, ...]
    lines: list[dict[str, Cell]]
    notes: tuple[str, ...] = ()


def spread(maps: Sequence[float]) -> dict[str, Cell]:
    """num_seeds, and mean and standard deviation (over n - 1) of mAP in per cent where there are enough of them."""
    return {
        "num_seeds": len(maps),
        "map_mean": 100 * float(np.mean(maps)) if maps else None,
        "map_std": 100 * float(np.std(maps, ddof=1)) if len(maps) > 1 else None,
    }


def percent(**values: float) -> dict[str, Cell]:
    """Shares in per cent, None for NaN."""
    return {name: None if np.isnan(value) else 100 * value for name, value in values.items()}


def write_csv(path: Path, table: Table) -> None:
    """One line a row, full columns, empty cells for what is not known."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_text(line.get(column), 4) for column in table.columns] for line in table.lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, buffer.getvalue().encode())


def write_pages(stem: Path, tables: Sequence[Table]) -> None:
    """<stem>.md and <stem>.html, the same content; the page needs no other file."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_file(stem.with_suffix(".md"), "\n".join(map(markdown, tables)).encode())
    body = "\n".join(map(_html, tables))
    page = f'<!doctype html><meta charset="utf-8"><title>{html.escape(tables[0].title)}</title><style>{STYLE}</style>'
    write_file(stem.with_suffix(".html"), f"{page}\n{body}\n".encode())


def markdown(table: Table) -> str:
    """A table with its notes as Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *_cells(table)]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"## {table.title}\n\n{text}" + "".join(f"\n{note}\n" for note in table.notes)


def _html(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>" for cells in _cells(table)
    )
    notes = "\n".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    return f"<h2>{html.escape(table.title)}</h2>\n<table>\n<tr>{head}</tr>\n{rows}\n</table>\n{notes}"


def _cells(table: Table) -> list[list[str]]:
    """Lines as people read them: a row that was not run says so, whoever has no value shows a dash."""
    cells = []
    for line in table.lines:
        empty = "not run" if line.get("num_seeds") == 0 else "-"
        cells.append([_text(line.get(column), 2) or empty for column in table.columns])
    return cells


def _text(value: Cell, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _write(run_dir: Path, name: str, table: Table, skipped: int) -> Outcome:
    write_csv(run_dir / "report" / f"{name}.csv", table)
    write_pages(run_dir / "report" / name, [table])
    return Outcome(run_dir / "report" / f"{name}.md", f"{len(table.lines)} lines", skipped)
