"""`worth-it`: whether a second look, and resolution, pay on these videos; learnt on a part of the training videos."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.config import Config, Training
from pipeline.metrics import Contrast
from pipeline.recipes import costs
from pipeline.recipes.experiments import ATTENTION, TABLE_2, UPSCALED, Row, ensure_prepared, seed_configs
from pipeline.recipes.study import INTERVAL_NOTE, BySeed, compare, cost, difference, of_rows, run_study, spread
from pipeline.recipes.table_box import held_out_config
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.outcome import Outcome
from pipeline.run.stores import open_run

GIVEN = ("center", "motion", "own")  # boxes that need no gradient; "own" where the config has a table of them
TAUGHT = {
    **{row.name: row for row in TABLE_2 if row.fusion == "late" and row.name in ("base", "repeat")},
    **{"upscaled": next(row for row in UPSCALED if row.fusion == "late"), "source": ATTENTION},
}
WHAT = {
    **{"base": "looks once", "repeat": "looks twice at the same frames"},
    **{"upscaled": "looks at the gradient's box, enlarged from the input", "source": "... cut from the source"},
}
UNITS = {"map": "points of mAP", "top1": "points of top-1 accuracy"}
ENOUGH = 1.5  # times as large in the source as in the input: a box with detail to gain
Recipe = TypeVar("Recipe", bound=Training)


def worth_it(
    config: Config, run_dir: Path, num_seeds: int = 3, share: float = 0.5, epochs: int | None = None
) -> Outcome:
    """Train a few rows shortly, on a part of the training videos; write the answer to report/worth-it.csv, .md, .html.

    A run of its own, <run>-worth, trains on four fifths of that part and evaluates on the rest; the evaluation videos
    take no part.

    Args:
        share: of the training videos.
        epochs: of the fusion models, and of Base unless it has none; None for half of the config's.
    Raises:
        StageError: too few videos are left to train on or to evaluate; and as the stages.
    """
    started, skipped = time.monotonic(), ensure_prepared(config, run_dir)
    folder = run_dir.with_name(f"{run_dir.name}-worth")
    short = held_out_config(config, run_dir, folder, share)
    rows = rows_of(short)
    short = replace(short, base=shorter(short.base, epochs), fusion=shorter(short.fusion, epochs))

    def run_seed(one: Config, folder: Path) -> tuple[Mapping[Row, Path | None], int]:
        paths, left_out = of_rows(list(rows.values()))(one, folder)
        costs.run(one, folder, [path for path in paths.values() if path])
        return paths, left_out

    study = run_study(short, folder, num_seeds, run_seed)
    found = {name: study.results[row] for name, row in rows.items()}
    lines = [_line(name, found, study.metric) for name in found]
    sizes = np.median(np.concatenate([_sizes(one, folder) for one in seed_configs(short, folder, num_seeds)]), axis=0)
    text = answer(found, sizes, short.saliency.box_side, UNITS[study.metric])
    ids = next(iter(found["source"].values())).ids
    trainings = num_seeds * len(rows)
    took = f"This took {(time.monotonic() - started) / 60:.1f} min: {trainings} trainings of at most "
    took += (
        f"{max(short.base.epochs, short.fusion.epochs)} epochs, where they were missing; {len(ids)} held-out videos."
    )
    box, frame = in_words(sizes)
    covered = f"The gradient's boxes cover {box} of {frame} source pixels, medians over held-out clips."
    notes = (text, took, _price(found), covered, study.note, INTERVAL_NOTE)
    outcome = write_tables(
        run_dir, {"worth-it": Table("Is it worth it?", lines, notes)}, max(skipped, study.num_skipped)
    )
    return replace(outcome, summary=text)


def rows_of(config: Config) -> dict[str, Row]:
    """Return what is trained, by the name in the table."""
    given = GIVEN if config.saliency.own_boxes else GIVEN[:2]
    return TAUGHT | {name: Row(name, "late", name, name, "source") for name in given}


def shorter(recipe: Recipe, epochs: int | None) -> Recipe:
    """Return a recipe of fewer epochs, half of them where None, in which all else happens as early as before."""
    if not recipe.epochs:  # a Base that is not trained
        return recipe
    epochs = epochs or -(-recipe.epochs // 2)
    scale = epochs / recipe.epochs
    drops = tuple(sorted({max(1, round(scale * one)) for one in recipe.drop_epochs}))
    return replace(recipe, epochs=epochs, drop_epochs=drops, warmup_epochs=int(scale * recipe.warmup_epochs))


def answer(found: Mapping[str, BySeed], sizes: np.ndarray, box_side: int, unit: str) -> str:
    """Say in a sentence whether the second look pays, and resolution; a difference pays whose interval is above 0.

    The second look is that at the gradient's box against the same frames twice, which train as long; resolution is the
    box cut from the source against the same box enlarged from the input.

    Args:
        found: results by the names of `rows_of`.
        sizes: median height and width of the boxes and of the frames, source pixels.
        box_side: of the boxes in the input.
        unit: of the metric, in words.
    """
    look, resolution = compare(found["source"], found["repeat"]), compare(found["source"], found["upscaled"])
    box, frame = in_words(sizes)
    pays, of_it = look.low > 0, resolution.low > 0
    text = f"The second look {'pays' if pays else 'does not pay here:'} {_said(look)} {unit}"
    if of_it:
        text += f", resolution pays {_said(resolution)}{' of it' if pays else ''}"
    else:
        text += f"; resolution does not pay here: {_said(resolution)}, "
        few = min(sizes[:2]) < ENOUGH * box_side
        text += f"{'because' if few else 'though'} boxes cover {box} of {frame} source pixels"
    text += "."
    for name in GIVEN:
        if name in found and (other := compare(found[name], found["source"])).low > 0:
            text += f" Boxes by {name} do better than the gradient's: {_said(other)}."
    return text


def in_words(sizes: np.ndarray) -> tuple[str, str]:
    """Write the heights and widths of `answer` as "137 × 241" and "272 × 480"."""  # noqa: RUF002
    return tuple("{:.0f} × {:.0f}".format(*pair) for pair in (sizes[:2], sizes[2:]))  # noqa: RUF001


def _said(found: Contrast) -> str:
    return f"{100 * found.delta:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _line(name: str, found: Mapping[str, BySeed], metric: str) -> dict:
    line = {"row": name, "what": WHAT.get(name, f"looks at boxes by {name}, cut from the source")}
    line |= spread(found[name], metric)
    for other in ("base", "repeat"):
        theirs = {} if other == name else found[other]
        line |= difference(compare(found[name], theirs), f"delta_{other}", f"{other}_low", f"{other}_high")
    return line | cost(found[name])


def _sizes(config: Config, folder: Path) -> np.ndarray:
    """Height and width of the boxes of all held-out clips, and of their frames, source pixels: (clips, 4)."""
    stores, sizes = open_run(folder, config), []
    for part in stores.run.parts_of("test"):
        store = stores.boxes(part, "entropy")
        rows = np.flatnonzero(store.product.rows_done())
        boxes = store.read_rows("box_source", rows).reshape(len(rows), -1, 4)[:, 0, 2:]
        sizes.append(np.hstack([boxes, part.rows[["source_height", "source_width"]].to_numpy()[rows]]))
    return np.concatenate(sizes)


def _price(found: Mapping[str, BySeed]) -> str:
    """Say what a video costs with and without a second look."""
    once, twice = cost(found["base"]), cost(found["source"])
    text = f"A video costs {once['gflop']:.3g} GFLOP once, {twice['gflop']:.3g} with the second look"
    if once["seconds"] is not None and twice["seconds"] is not None:
        text += f"; {once['seconds']:.3g} and {twice['seconds']:.3g} s here, with decoding"
    return text + "."
