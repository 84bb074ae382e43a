"""Table 2 and its contrasts from stored results; any table as CSV, Markdown and a page of HTML."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.errors import StageError
from pipeline.metrics import contrast
from pipeline.recipes.experiments import TABLE_2, ensure_prepared, run_rows, seed_configs
from pipeline.recipes.scored_results import (
    INTERVAL_NOTE,
    ORACLE_NOTE,
    Results,
    footnote,
    read_results,
    scored,
    weights_of,
)
from pipeline.recipes.table_files import Table, percent, spread, write_csv, write_pages
from pipeline.run.outcome import Outcome

ATTENTION, BLIND = ("e/e", "ce/e", "ce/ce"), ("base", "repeat", "random", "center")
# What the paper claims, as pairs of row names.
CONTRASTS = (
    *((ours, theirs) for ours in ATTENTION for theirs in BLIND),
    ("ce/ce", "ce/ce-up"),
    ("ce/e", "ce/e-up"),
    ("e/e", "ce/ce"),
)


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
    notes = (footnote(config, run_dir, weights_of(results[TABLE_2[0]])), INTERVAL_NOTE, ORACLE_NOTE)
    if share_base:
        notes += ("All seeds share one Base (--share-base): the spread over seeds is that of the fusion alone.",)
    shown = (summary(config, results, notes), contrast_table(results))
    for name, table in zip(("table2", "contrasts"), shown, strict=True):
        write_csv(run_dir / "report" / f"{name}.csv", table)
    write_pages(run_dir / "report" / "table2", shown)
    done = sum(len(by_seed) for by_seed in results.values())
    return Outcome(run_dir / "report" / "table2.md", f"{done} of {len(TABLE_2) * num_seeds} results", skipped)


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
