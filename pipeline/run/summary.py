"""A data set in a few lines: how many videos, how long, how large, how fast, which labels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cache.table_files import read_csv
from pipeline.data.annotations import Annotations
from pipeline.run.folder import read_labels

NUMBERS = ("source_fps", "duration_seconds", "height", "width", "zoom_y", "zoom_x")
NAMED = 3  # sizes and classes that a line names


def describe_run(run_dir: Path) -> dict[str, str]:
    """Describe the videos of a prepared run; see `describe`. Raises as `read_labels`."""
    videos = read_csv(run_dir / "videos.csv", ("video_id", *NUMBERS), NUMBERS)
    return describe(videos, read_labels(run_dir))


def describe(videos: pd.DataFrame, annotations: Annotations) -> dict[str, str]:
    """Return lines by what they are about; seconds, pixels and rates of these videos, labels of all that are annotated.

    Args:
        videos: rows of videos.csv, with `NUMBERS` at least.
    """
    splits = annotations.videos.split.value_counts()
    number = f"{len(annotations.videos)} ({', '.join(f'{splits.get(name, 0)} {name}' for name in ('train', 'test'))})"
    if len(videos) < len(annotations.videos):
        number += f"; of {len(videos)} of them"
    hours = videos.duration_seconds.sum() / 3600
    sizes = (videos.height.astype(int).astype(str) + " x " + videos.width.astype(int).astype(str)).value_counts()
    of_size = [f"{size} ({count})" for size, count in sizes.items()]
    targets = annotations.video_targets(annotations.videos.video_id.tolist())
    labels, zoom = targets.sum(1), videos[["zoom_y", "zoom_x"]].min(axis=1)
    none = f"{(labels == 0).sum()} videos have none"
    without = [
        f"{len(names)} without a video in {split} ({_some(names)})"
        for split in ("train", "test")
        if (names := _without(annotations, targets, split))
    ]
    return {
        "videos": f"{number}: {hours:.3g} hours, {_range(videos.duration_seconds)} s",
        "frames": f"{_some(of_size)} high x wide; {_range(videos.source_fps)} a second",
        "labels": f"{labels.mean():.3g} a video, {labels.min()} to {labels.max()}; {none}",
        "classes": "; ".join([str(len(annotations.classes)), *without]),
        "source": f"{_range(zoom)} times the resized frame, by height or width",
    }


def videos_by_class(annotations: Annotations) -> np.ndarray:
    """Return in how many videos each class occurs, int (C,)."""
    return annotations.video_targets(annotations.videos.video_id.tolist()).sum(0, dtype=int)


def _without(annotations: Annotations, targets: np.ndarray, split: str) -> list[str]:
    """Return the classes that occur in no video of a split; none where the split has no videos."""
    of_split = targets[(annotations.videos.split == split).to_numpy()]
    return [name for name, many in zip(annotations.classes, of_split.sum(0), strict=True) if not many and len(of_split)]


def _range(values: pd.Series) -> str:
    """Return the smallest, the middle and the largest of some numbers."""
    low, middle, high = (f"{round(value, 2):g}" for value in values.quantile([0, 0.5, 1]))
    return low if low == high else f"{low} to {high} (median {middle})"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
