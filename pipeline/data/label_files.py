"""The annotation files that a config names, whatever their format."""

import logging
from dataclasses import replace
from pathlib import Path

from cache.errors import relative_to
from pipeline.config import Data
from pipeline.data.annotations import Annotations
from pipeline.data.charades_csv import read_charades
from pipeline.data.plain_csv import read_plain
from pipeline.data.strict_csv import SPLITS
from pipeline.errors import StageError

log = logging.getLogger(__name__)

CHARADES_PAGE = "https://prior.allenai.org/projects/charades (see pipeline/data/README.md)"
READERS = {  # by format: the function, and how many files `data.annotations` names
    "plain": (read_plain, 1),
    "charades": (read_charades, 2),
    "miniature": (read_charades, 2),
}


def read_annotations(data: Data) -> Annotations:
    """Read the annotation files; the splits become "train" and "test", as `data` says, and other videos are left out.

    Raises:
        AnnotationError: a file is not exactly its format, or a video not of `data.task`, with two labels or none.
        StageError: a setting, a file or a split is missing.
    """
    read, needed = READERS[data.format]
    if len(data.annotations) != needed:
        raise StageError(f"data.annotations: format {data.format} takes {needed} file(s), got {len(data.annotations)}")
    if missing := [path for path in (*data.annotations, data.classes) if not Path(path).is_file()]:
        names = ", ".join(path or "data.classes" for path in missing)
        hint = f"; Charades.zip, from {CHARADES_PAGE}, holds them" if data.format == "charades" else ""
        raise StageError(f"{names}: no such annotation file{relative_to(missing[0])}{hint}")
    annotations = read(*(Path(path) for path in data.annotations), Path(data.classes))
    if annotations.videos.empty:
        raise StageError(f"{', '.join(data.annotations)}: no video, nothing below the header")
    unknown = set(data.eval_ids) - set(annotations.videos.video_id)
    if unknown:
        raise StageError(f"--eval-ids: {', '.join(sorted(unknown))} not in the annotations")
    return _choose_splits(data, annotations).for_task(data.task)


def _choose_splits(data: Data, annotations: Annotations) -> Annotations:
    """Name the splits by what they are for; `data.eval_ids` moves videos to the evaluation, whatever their split."""
    videos, actions = annotations.videos, annotations.actions
    counts = ", ".join(f"{split} ({count})" for split, count in videos.split.value_counts().items())
    for setting, default in (("train_splits", "train"), ("eval_splits", "test")):
        may_lack = {default} if set(videos.split) <= set(SPLITS) or (default == "test" and data.eval_ids) else set()
        for split in sorted(set(getattr(data, setting)) - set(videos.split) - may_lack):
            raise StageError(f"data.{setting}: {split!r} is no split of the annotations, which have {counts}")
    chosen = videos.split.map({**dict.fromkeys(data.train_splits, "train"), **dict.fromkeys(data.eval_splits, "test")})
    chosen[videos.video_id.isin(data.eval_ids)] = "test"
    left = videos.video_id[chosen.isna()]
    if len(left):
        log.warning("%d videos are of splits that are neither trained on nor evaluated: %s", len(left), counts)
    kept = videos.assign(split=chosen)[chosen.notna()].reset_index(drop=True)
    return replace(annotations, videos=kept, actions=actions[~actions.video_id.isin(left)].reset_index(drop=True))
