"""Clip lengths compared: Table 1 of the paper."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import Config
from pipeline.config_file import check
from pipeline.recipes.experiments import BASE
from pipeline.recipes.study import of_rows, run_study, spread
from pipeline.recipes.table2 import is_official
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.outcome import Outcome

PAPER_TABLE_1 = {16: 27.8, 32: 30.3, 64: 31.6}  # T_in -> mAP in per cent
PAPER_BATCHES = {16: 20, 32: 16, 64: 12}  # T_in -> clips of a step, section 5.3
MINIATURE_FRAMES = (4, 8, 16)


def table1(config: Config, run_dir: Path, num_seeds: int = 1, frames: Sequence[int] = ()) -> Outcome:
    """Train and evaluate Base at several T_in; write report/table1.csv, .md and .html.

    The run itself has the config's T_in; every other T_in has a run of its own beside it, <run>-t<T_in>.

    Args:
        frames: values of T_in; none for the paper's, or the miniature's.
    """
    frames = frames or (MINIATURE_FRAMES if config.data.format == "miniature" else tuple(PAPER_TABLE_1))
    lines, notes, skipped = [], [], 0
    for length in frames:
        study = run_study(*_with_frames(config, run_dir, length), num_seeds, of_rows([BASE]))
        found = study.results[BASE]
        complete = not any(result.facts["num_missing"] for result in found.values())
        paper = {"paper_map": PAPER_TABLE_1.get(length) if is_official(config) and complete else None}
        lines.append({"frames": length} | spread(found, study.metric) | paper)
        notes.append(study.note)
        skipped = max(skipped, study.num_skipped)
    return write_tables(run_dir, {"table1": Table("Table 1: Base at several T_in", lines, tuple(notes))}, skipped)


def _with_frames(config: Config, run_dir: Path, length: int) -> tuple[Config, Path]:
    """Config and run folder of one T_in; on Charades with the paper's batch size."""
    if length == config.clips.num_frames:
        return config, run_dir
    base = config.base
    if config.data.format == "charades":
        base = replace(base, batch_size=PAPER_BATCHES.get(length, base.batch_size))
    config = check(replace(config, clips=replace(config.clips, num_frames=length), base=base))
    return config, run_dir.with_name(f"{run_dir.name}-t{length}")
