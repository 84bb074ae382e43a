"""Table 2 and its contrasts from stored results; any table as CSV, Markdown and a page of HTML."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.commit import write_file
from pipeline import evaluate
from pipeline.config import Config
from pipeline.contrasts import RESAMPLES, Scored, contrast, resampled_maps, resamples
from pipeline.experiments import TABLE_2, Row, ensure_prepared, run_rows, seed_configs, stored_result
from pipeline.result_files import read_result
from pipeline.workspace import Outcome, StageError, Workspace

Cell = str | int | float | bool | None

ATTENTION, BLIND = ("e/e", "ce/e", "ce/ce"), ("base", "repeat", "random", "center")
# What the paper claims, as pairs of row names.
CONTRASTS = (
    *((ours, theirs) for ours in ATTENTION for theirs in BLIND),
    ("ce/ce", "ce/ce-up"),
    ("ce/e", "ce/e-up"),
    ("e/e", "ce/ce"),
)
INTERVAL_NOTE = (
    f"Intervals: 95 %, paired bootstrap over evaluation videos, {RESAMPLES} resamples, averaged over seeds inside "
    "each; classes without positives are left out."
)
ORACLE_NOTE = (
    "oracle = true: the boxes of the evaluation videos come from the gradient of a loss that holds their labels, so "
    "the number is no prediction and compares with nothing that has not seen them."
)
STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}td:first-child{text-align:left}"


@dataclass(frozen=True)
class Table:
    """What is printed. None is a cell without a value."""

    title: str
    columns: tuple[str, ...]
    lines: list[dict[str, Cell]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """One result file, and its scores on resampled videos."""

    facts: dict
    scored: Scored


Results = dict[Row, dict[int, Result]]  # by row and seed


def table2(
    config: Config, run_dir: Path, num_seeds: int = 1, only: Sequence[str] = (), share_base: bool = False
) -> Outcome:
    """Run what the paper's Table 2 still needs and write report/table2.csv, .md, .html and contrasts.csv.

    Args:
        num_seeds: seeds config.seed, config.seed + 1, ..., each with its own Base, maps and crops.
        only: names of the rows to run, none for all; Base always is. Rows that were run before are shown too.
        share_base: all seeds use the Base of the first.
    Raises:
        StageError: a row has another name, or a stage cannot start.
    """
    names = tuple(dict.fromkeys(row.name for row in TABLE_2))
    if unknown := set(only) - set(names):
        raise StageError(f"--only {', '.join(sorted(unknown))}: no such row; rows are {', '.join(names)}")
    chosen = [row for row in TABLE_2 if not only or row.name in ("base", *only)]
    skipped = ensure_prepared(config, run_dir)
    configs = seed_configs(config, run_dir, num_seeds, share_base)
    for one in configs:
        skipped = max(skipped, run_rows(one, run_dir, chosen))
    results = read_results(configs, run_dir, TABLE_2)
    notes = (protocol(config, run_dir, weights_of(results[TABLE_2[0]])), INTERVAL_NOTE, ORACLE_NOTE)
    if share_base:
        notes += ("All seeds share one Base (--share-base): the spread over seeds is that of the fusion alone.",)
    shown = (summary(config, results, notes), contrast_table(results))
    for name, table in zip(("table2", "contrasts"), shown, strict=True):
        write_csv(run_dir / "report" / f"{name}.csv", table)
    write_pages(run_dir / "report" / "table2", shown)
    done = sum(len(by_seed) for by_seed in results.values())
    return Outcome(run_dir / "report" / "table2.md", f"{done} of {len(TABLE_2) * num_seeds} results", skipped)


def read_results(configs: Sequence[Config], run_dir: Path, rows: Sequence[Row]) -> Results:
    """Every stored result of the rows, by seed, scored on the same resamples of the evaluation videos.

    Raises:
        StageError: two results are of different videos.
    """
    found: Results = {row: {} for row in rows}
    known: dict[Path, Result] = {}  # Base stands in two rows
    times = targets = first = ids = None
    for config in configs:
        for row in rows:
            path = stored_result(config, run_dir, row)
            if path and path not in known:
                facts, videos, scores = read_result(path)
                if ids is None:
                    first, ids, times = path, videos, resamples(len(videos))
                    targets = Workspace(run_dir, config).annotations.video_targets(ids)
                if videos != ids:
                    raise StageError(f"{path} and {first} hold scores of different videos, they cannot be compared")
                known[path] = Result(facts, Scored(facts["map"], resampled_maps(scores, targets, times)))
            if path:
                found[row][config.seed] = known[path]
    return found


def summary(config: Config, results: Results, notes: tuple[str, ...]) -> Table:
    """Table 2: a line per row and fusion, in the paper's order."""
    base = {row.fusion: scored(by_seed) for row, by_seed in results.items() if row.boxes_train is None}
    official = config.data.format == "charades" and not config.data.eval_ids
    missing = max((one.facts["num_missing"] for by_seed in results.values() for one in by_seed.values()), default=0)
    lines = []
    for row, by_seed in results.items():
        line = {"row": row.name, "fusion": row.fusion, **spread([one.facts["map"] for one in by_seed.values()])}
        difference = contrast(scored(by_seed), base[row.fusion])
        if row.boxes_train is not None:
            line |= percent(delta_base=difference.delta, delta_low=difference.low, delta_high=difference.high)
        shares = [one.facts["boxes_on_target"] for one in by_seed.values()]
        line["boxes_on_target"] = float(np.mean(shares)) if shares and None not in shares else None
        line["oracle"] = row.oracle
        line["paper_map"] = row.paper_map if official and not missing else None
        lines.append(line)
    if official and missing:
        notes += (f"The paper's column is left out: {missing} evaluation videos are missing.",)
    columns = ("row", "fusion", "num_seeds", "map_mean", "map_std", "delta_base", "delta_low", "delta_high")
    return Table("Table 2", (*columns, "boxes_on_target", "oracle", "paper_map"), lines, notes)


def contrast_table(results: Results) -> Table:
    """Every claim of CONTRASTS in both fusions."""
    by_name = {(row.name, row.fusion): scored(by_seed) for row, by_seed in results.items()}
    lines = []
    for a, b in CONTRASTS:
        for fusion in dict.fromkeys(row.fusion for row in results):
            found = contrast(by_name[a, fusion], by_name[b, fusion])
            line = {"row_a": a, "row_b": b, "fusion": fusion, "num_seeds": found.num_seeds}
            line |= percent(delta=found.delta, low=found.low, high=found.high)
            lines.append(line | {"seeds_won": found.seeds_won})
    columns = ("row_a", "row_b", "fusion", "num_seeds", "delta", "low", "high", "seeds_won")
    return Table("Contrasts: row_a minus row_b", columns, lines)


def scored(by_seed: dict[int, Result]) -> dict[int, Scored]:
    """What `contrast` compares."""
    return {seed: result.scored for seed, result in by_seed.items()}


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


def protocol(config: Config, run_dir: Path, base_weights: dict[int, str]) -> str:
    """What stands under a table: how clips are made and scored, and whose weights (sha256 by seed)."""
    weights = ", ".join(f"seed {seed} {sha256[:12]}" for seed, sha256 in base_weights.items())
    return (
        f"mAP in per cent; {evaluate.protocol(Workspace(run_dir, config))}. Always the last epoch's weights, nothing "
        f"is chosen on evaluation videos. Base: {weights}."
    )


def weights_of(by_seed: dict[int, Result]) -> dict[int, str]:
    """sha256 of the weights behind results, by seed."""
    return {seed: result.facts["weights"] for seed, result in by_seed.items()}


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
