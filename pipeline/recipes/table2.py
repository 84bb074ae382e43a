"""Table 2 of the paper and the differences that it claims."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.errors import StageError
from pipeline.recipes.experiments import TABLE_2, UPSCALED, Row
from pipeline.recipes.study import (
    COST_NOTE,
    INTERVAL_NOTE,
    ORACLE_NOTE,
    BySeed,
    compare,
    cost,
    difference,
    metric_of,
    of_rows,
    run_study,
    spread,
)
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.outcome import Outcome

ATTENTION, BLIND = ("e/e", "ce/e", "ce/ce"), ("base", "repeat", "random", "center")
# What the paper claims, as pairs of row names.
CONTRASTS = (
    *((ours, theirs) for ours in ATTENTION for theirs in BLIND),
    ("ce/ce", "ce/ce-up"),
    ("ce/e", "ce/e-up"),
    ("e/e", "ce/ce"),
)
OWN_CONTRASTS = (("e/e", "e/e-up"),)  # where the row was asked for


def table2(
    config: Config, run_dir: Path, num_seeds: int = 1, only: Sequence[str] = (), share_base: bool = False
) -> Outcome:
    """Run what the paper's Table 2 still needs and write report/table2.csv, .md, .html and contrasts.csv.

    Args:
        num_seeds: seeds config.seed, config.seed + 1, ..., each with its own Base, maps and crops.
        only: names of the rows to run besides Base; () for all of the paper, whose table has no e/e-up. Rows of the
            paper that were run before are shown too.
        share_base: all seeds use the Base of the first.
    Raises:
        StageError: there is no row of a name, or a stage cannot start.
    """
    rows = (*TABLE_2, *UPSCALED)
    names = tuple(dict.fromkeys(row.name for row in rows))
    if unknown := set(only) - set(names):
        raise StageError(f"--only {', '.join(sorted(unknown))}: no such row; rows are {', '.join(names)}")
    chosen = [row for row in rows if row.name in ("base", *only)] if only else list(TABLE_2)
    shown = [row for row in rows if row in TABLE_2 or row in chosen]
    study = run_study(config, run_dir, num_seeds, of_rows(chosen, shown=shown), share_base)
    notes = (study.note, INTERVAL_NOTE, ORACLE_NOTE, COST_NOTE)
    if share_base:
        notes += ("All seeds share one Base (--share-base): the spread over seeds is that of the fusion alone.",)
    tables = {"table2": summary(config, study.results, notes), "contrasts": contrast_table(study.results)}
    done = sum(len(by_seed) for by_seed in study.results.values())
    outcome = write_tables(run_dir, tables, study.num_skipped)
    return replace(outcome, summary=f"{done} of {len(shown) * num_seeds} results")


def is_official(config: Config) -> bool:
    """Whether the results of a config may stand beside the paper's, if no video is missing."""
    data = config.data
    return (data.format, data.task, data.eval_splits, data.eval_ids) == ("charades", "multi_label", ("test",), ())


def summary(config: Config, results: Mapping[Row, BySeed], notes: tuple[str, ...]) -> Table:
    """Table 2: a line per row and fusion, in the paper's order."""
    base = {row.fusion: by_seed for row, by_seed in results.items() if row.boxes_train is None}
    official = is_official(config)
    missing = max((one.facts["num_missing"] for by_seed in results.values() for one in by_seed.values()), default=0)
    lines = []
    for row, by_seed in results.items():
        line = {"row": row.name, "fusion": row.fusion, **spread(by_seed, metric_of(config))}
        theirs = {} if row.boxes_train is None else base[row.fusion]  # Base has no difference to itself
        line |= difference(compare(by_seed, theirs), "delta_base", "delta_low", "delta_high")
        shares = [one.facts["boxes_on_target"] for one in by_seed.values()]
        line["boxes_on_target"] = float(np.mean(shares)) if shares and None not in shares else None
        line |= cost(by_seed)
        line["oracle"] = row.oracle
        line["paper_map"] = row.paper_map if official and not missing else None
        lines.append(line)
    if official and missing:
        notes += (f"The paper's column is left out: {missing} evaluation videos are missing.",)
    return Table("Table 2", lines, notes)


def contrast_table(results: Mapping[Row, BySeed]) -> Table:
    """Every claim of CONTRASTS in both fusions."""
    by_name = {(row.name, row.fusion): by_seed for row, by_seed in results.items()}
    lines = []
    for a, b in (*CONTRASTS, *(pair for pair in OWN_CONTRASTS if {*pair} <= {name for name, _ in by_name})):
        for fusion in dict.fromkeys(row.fusion for row in results):
            found = compare(by_name[a, fusion], by_name[b, fusion])
            line = {"row_a": a, "row_b": b, "fusion": fusion, "num_seeds": found.num_seeds}
            lines.append(line | difference(found, "delta", "low", "high") | {"seeds_won": found.seeds_won})
    return Table("Contrasts: row_a minus row_b", lines)
