"""Box sizes, compared on a part of the training videos."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cache.commit import write_file
from pipeline.config import Config
from pipeline.config_file import check
from pipeline.data.own_boxes import read_own_boxes
from pipeline.data.plain_csv import labels_csv
from pipeline.errors import StageError
from pipeline.recipes.experiments import ATTENTION, BASE, ensure_prepared
from pipeline.recipes.study import INTERVAL_NOTE, compare, difference, of_rows, run_study, spread
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.folder import read_labels
from pipeline.run.outcome import Outcome


def table_box(config: Config, run_dir: Path, num_seeds: int = 1, sides: Sequence[int] = ()) -> Outcome:
    """Train late fusion with entropy boxes of several sizes; write report/table-box.csv, .md and .html.

    A run of its own, <run>-box, trains on four fifths of the training videos and evaluates on the rest; the evaluation
    videos take no part.

    Args:
        sides: in pixels of the input; () for 2/7 to 6/7 of its side (the paper chose 4/7, 128 of 224).
    """
    sides = sides or tuple(round(config.clips.input_side * part / 7) for part in range(2, 7))
    skipped = ensure_prepared(config, run_dir)
    folder = run_dir.with_name(f"{run_dir.name}-box")
    config = held_out_config(config, run_dir, folder)
    lines, notes = [], ()
    for side in sides:
        one = check(replace(config, saliency=replace(config.saliency, box_side=side)))
        study = run_study(one, folder, num_seeds, of_rows([BASE, ATTENTION]))
        ours, base = study.results[ATTENTION], study.results[BASE]
        line = {"box_side": side} | spread(ours, study.metric)
        lines.append(line | difference(compare(ours, base), "delta_base", "delta_low", "delta_high"))
        notes = (study.note.replace(f"box {side},", "box as in the row,"), INTERVAL_NOTE)
        skipped = max(skipped, study.num_skipped)
    notes += ("Validation: a fifth of the training videos, by a hash of their ids; Base has not seen them either.",)
    return write_tables(run_dir, {"table-box": Table("Box sizes, late fusion e/e", lines, notes)}, skipped)


def held_out(video_id: str) -> bool:
    """Whether a training video belongs to the fifth that is evaluated; decided by its id alone."""
    return hashlib.sha256(video_id.encode()).digest()[0] % 5 == 0


def in_share(video_id: str, share: float) -> bool:
    """Whether a video belongs to a share, in [0, 1], of all; decided by its id alone, and not as `held_out`."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[1:5]) < share * 2**32


def held_out_config(config: Config, run_dir: Path, folder: Path, share: float = 1.0) -> Config:
    """Return the config of a run, in `folder`, on a share of the training videos of a prepared run; see `held_out`.

    Raises:
        StageError: no video is left to train on, or to evaluate; or the folder has another share.
        AnnotationError: the table of `saliency.own_boxes` names a video that the prepared run has not.
    """
    annotations = read_labels(run_dir)
    videos = annotations.videos[annotations.videos.split == "train"].copy()
    videos = videos[[in_share(video_id, share) for video_id in videos.video_id]]
    videos["split"] = ["test" if held_out(video_id) else "train" for video_id in videos.video_id]
    if (found := videos.split.nunique()) < 2:
        which = "all" if found and videos.split.iat[0] == "test" else "none"
        rule = (
            f"a fifth of the training videos, by a hash of their ids, is evaluated here, {which} of its {len(videos)}"
        )
        more = "table-box needs more of them, ten or so: prepare --extend adds some"
        more = more if share == 1 else "a larger --share takes more of them"
        raise StageError(f"{run_dir}: {rule}; {more}")
    actions = annotations.actions[annotations.actions.video_id.isin(videos.video_id)]
    folder.mkdir(parents=True, exist_ok=True)
    content = labels_csv(replace(annotations, videos=videos, actions=actions))
    if share < 1 and (folder / "config.toml").exists() and (folder / "validation.csv").read_bytes() != content:
        raise StageError(f"{folder} was made with another --share, or other labels; delete it")
    write_file(folder / "validation.csv", content)
    plain = {"format": "plain", "train_splits": ("train",), "eval_splits": ("test",), "eval_ids": ()}
    data = replace(config.data, annotations=(str(folder / "validation.csv"),), **plain)
    # the share of labels past the end was small enough in all videos
    data = replace(data, classes=str(run_dir / "classes.txt"), max_past_end=1.0)
    if not config.saliency.own_boxes:
        return replace(config, data=data)
    own = read_own_boxes(Path(config.saliency.own_boxes))
    own.check_videos({}, annotations.videos.video_id)
    write_file(folder / "own_boxes.csv", own.of_videos(set(videos.video_id)))
    return replace(config, data=data, saliency=replace(config.saliency, own_boxes=str(folder / "own_boxes.csv")))
