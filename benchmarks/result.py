"""What a row of the table says: one JSON line, one line of Markdown."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.timing import Times
from pipeline.errors import StageError
from pipeline.run.overwrite import check_overwrite, holds

HEAD = ("#", "what", "ours", "theirs", "ratio", "goal", "agreement")
TABLE = "| " + " | ".join(HEAD)  # how every table of rows begins
BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


@dataclass(frozen=True)
class Result:
    """Both sides of one comparison.

    Args:
        name: what is compared, against what.
        ours, theirs: medians, in `unit`; None where there is no other side.
        ratio: what the goal is about.
        met: whether the goal is reached.
        agreement: how far the results of both sides were found equal.
        extra: more keys of the JSON line.
    """

    name: str
    ours: float | None
    theirs: float | None
    ratio: float
    goal: str
    met: bool
    agreement: str
    unit: str = "s"
    extra: dict = field(default_factory=dict)


def of_times(times: Times, name: str, goal: str, met: bool, agreement: str) -> Result:
    """A row whose two sides are seconds."""
    extra = {"ratio_of_minima": times.ratio_of_minima}
    return Result(name, times.ours, times.theirs, times.ratio, goal, met, agreement, extra=extra)


def to_json(row: int, result: Result) -> str:
    keys = ("name", "ours", "theirs", "ratio", "goal", "agreement", "met", "unit")
    return json.dumps({"row": row, **{key: getattr(result, key) for key in keys}, **result.extra}, ensure_ascii=False)


def to_markdown(results: Iterable[tuple[int, Result]]) -> str:
    lines = []
    for row, result in results:
        ours, theirs = (_quantity(value, result.unit) for value in (result.ours, result.theirs))
        goal = result.goal if result.met else f"{result.goal} (missed)"
        ratio = f"{result.ratio:.3g}" if result.ratio < 100 else f"{result.ratio:.0f}"
        lines.append((str(row), result.name, ours, theirs, ratio, goal, result.agreement))
    return table(HEAD, lines) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def check_out(path: Path, command: str, mark: str) -> None:
    """Refuse a file that is there already and does not hold the mark of what the command writes."""
    try:
        check_overwrite(path, command, holds(mark.encode()))
    except StageError as error:
        raise click.UsageError(str(error)) from None


def placed(page: str, table: str) -> str:
    """Put the table between the two markers of a page.

    Raises:
        ValueError: the page does not have each marker once, the first one first.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"the page needs {BEGIN} and {END}, each once, in this order")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "s" and value < 0.1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
