"""Box sizes compared on a part of the training videos."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cache.commit import write_file
from pipeline.config import Config
from pipeline.data.plain_csv import labels_csv, read_plain
from pipeline.metrics import contrast
from pipeline.recipes.experiments import ATTENTION, BASE, ensure_prepared, run_rows, seed_configs
from pipeline.recipes.scored_results import INTERVAL_NOTE, footnote, read_results, scored, weights_of
from pipeline.recipes.table_files import Table, _write, percent, spread
from pipeline.run.outcome import Outcome


def table_box(config: Config, run_dir: Path, num_seeds: int = 1, sides: Sequence[int] = ()) -> Outcome:
    """Late fusion with entropy boxes of several sizes; writes report/table-box.csv, .md and .html.

    Sizes are compared on a fifth of the training videos, held out of everything in a run of its own, <run>-box. The
    evaluation videos take no part.

    Args:
        sides: pixels of the input; none for 2/7 to 6/7 of it (the paper chose 4/7, 128 of 224).
    """
    sides = sides or tuple(round(config.clips.input_side * part / 7) for part in range(2, 7))
    skipped = ensure_prepared(config, run_dir)
    folder = run_dir.with_name(f"{run_dir.name}-box")
    config = _validation_config(config, run_dir, folder)
    skipped = max(skipped, ensure_prepared(config, folder))
    lines, notes = [], ()
    for side in sides:
        one = replace(config, saliency=replace(config.saliency, box_side=side))
        configs = seed_configs(one, folder, num_seeds)
        skipped = max(skipped, *(run_rows(seeded, folder, [BASE, ATTENTION]) for seeded in configs))
        found = read_results(configs, folder, [BASE, ATTENTION])
        difference = contrast(scored(found[ATTENTION]), scored(found[BASE]))
        line = {"box_side": side, **spread([result.facts["map"] for result in found[ATTENTION].values()])}
        lines.append(line | percent(delta_base=difference.delta, delta_low=difference.low, delta_high=difference.high))
        text = footnote(one, folder, weights_of(found[BASE]))
        notes = (text.replace(f"box {side},", "box as in the row,"), INTERVAL_NOTE)
    notes += ("Validation: a fifth of the training videos, by a hash of their ids; Base has not seen them either.",)
    columns = ("box_side", "num_seeds", "map_mean", "map_std", "delta_base", "delta_low", "delta_high")
    return _write(run_dir, "table-box", Table("Box sizes, late fusion e/e", columns, lines, notes), skipped)


def held_out(video_id: str) -> bool:
    """Whether a training video belongs to the fifth that validates; a matter of its id alone."""
    return hashlib.sha256(video_id.encode()).digest()[0] % 5 == 0


def _validation_config(config: Config, run_dir: Path, folder: Path) -> Config:
    """The config whose evaluation videos are held out of the training videos of a prepared run."""
    annotations = read_plain(run_dir / "labels.csv", run_dir / "classes.txt")
    videos = annotations.videos[annotations.videos.split == "train"].copy()
    videos["split"] = ["test" if held_out(video_id) else "train" for video_id in videos.video_id]
    actions = annotations.actions[annotations.actions.video_id.isin(videos.video_id)]
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "validation.csv", labels_csv(replace(annotations, videos=videos, actions=actions)))
    data = replace(config.data, format="plain", annotations=(str(folder / "validation.csv"),), eval_ids=())
    return replace(config, data=replace(data, classes=str(run_dir / "classes.txt")))
