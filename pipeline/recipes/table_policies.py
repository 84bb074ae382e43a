"""Ways to choose the boxes of the second look, side by side: policies, and rules over one map."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.config import Config, Focus, Pixels
from pipeline.config_file import check
from pipeline.errors import StageError
from pipeline.recipes import costs
from pipeline.recipes.experiments import BASE, Row, run_rows, stored_result
from pipeline.recipes.study import COST_NOTE, INTERVAL_NOTE, BySeed, compare, cost, difference, run_study, spread
from pipeline.recipes.tables import Cell, Table, write_tables
from pipeline.run.outcome import Outcome

NUM_BOXES = 2  # of top-k


def table_policies(
    config: Config, run_dir: Path, num_seeds: int = 1, sides: Sequence[int] = (), only: Sequence[str] = ()
) -> Outcome:
    """Train late fusion with boxes of several policies and rules; write report/table-policies.csv, .md and .html.

    All settings are given beforehand; the table is of the evaluation videos, so choose nothing by it.

    Args:
        sides: of the rules scale and nested, input pixels, each of them a fixed side too; () for 3/7 to 5/7 of the
            input's side.
        only: names of rows beside base, see `variants`; () for all.
    Raises:
        StageError: there is no row of a name, or a stage cannot start.
    """
    all_variants = variants(config, sides or tuple(round(config.clips.input_side * part / 7) for part in range(3, 6)))
    if unknown := set(only) - {*all_variants}:
        raise StageError(f"--only {', '.join(sorted(unknown))}: no such row; rows are {', '.join(all_variants)}")
    chosen = {name: all_variants[name] for name in ("base", *(only or all_variants))}

    def run_seed(one: Config, run_dir: Path) -> tuple[dict[str, Path | None], int]:
        paths, skipped = {}, 0
        for name, (row, saliency) in chosen.items():
            with_rule = check(replace(one, saliency=replace(one.saliency, **saliency)))
            skipped = max(skipped, run_rows(with_rule, run_dir, [row]))
            paths[name] = stored_result(with_rule, run_dir, row)
            costs.run(with_rule, run_dir, [paths[name]])
        return paths, skipped

    study = run_study(config, run_dir, num_seeds, run_seed)
    first = "entropy" if "entropy" in chosen else "base"
    lines = [_line(name, study.results, first, study.metric) for name in chosen]
    notes = (study.note.replace(f"box {config.saliency.box_side},", "boxes as in the row,"), INTERVAL_NOTE, COST_NOTE)
    return write_tables(run_dir, {"table-policies": Table("Policies, late fusion", lines, notes)}, study.num_skipped)


def variants(config: Config, sides: Sequence[int]) -> dict[str, tuple[Row, dict]]:
    """Return each row's experiment and what it changes in config.saliency, by the name in the table.

    "entropy" has one box of box_side a clip, "entropy:24" one of another side, "entropy:scale" follows a rule.
    """
    side, given = config.saliency.box_side, ("random", "center", "motion", "looker")
    rules = {
        "top-k": {"box_rule": "top-k", "num_boxes": NUM_BOXES},
        "scale": {"box_rule": "scale", "box_sides": tuple(sides)},
        "nested": {"box_rule": "nested", "box_sides": tuple(sides)},
    }
    settings = {"": {}} | {str(one): {"box_side": one} for one in sides if one != side} | rules
    found = {"base": (BASE, {}), "repeat": (_row("repeat", "input"), {})}
    found |= {f"entropy:{name}".rstrip(":"): (_row("entropy"), changed) for name, changed in settings.items()}
    found |= {name: (_row(name), {}) for name in given}
    if config.saliency.own_boxes:
        found |= {"own": (_row("own"), {}), "own:top-k": (_row("own"), rules["top-k"])}
    return found


def _row(policy: Focus, pixels: Pixels = "source") -> Row:
    return Row(policy, "late", policy, policy, pixels)


def _line(name: str, results: dict[str, BySeed], first: str, metric: str) -> dict[str, Cell]:
    by_seed = results[name]
    line = {"row": name} | spread(by_seed, metric)
    for other in dict.fromkeys(("base", first)):
        theirs = {} if name == other else results[other]
        line |= difference(compare(by_seed, theirs), f"delta_{other}", f"{other}_low", f"{other}_high")
    shares = [one.facts["boxes_on_target"] for one in by_seed.values()]
    line["boxes_on_target"] = 100 * float(np.mean(shares)) if shares and None not in shares else None
    return line | cost(by_seed)
