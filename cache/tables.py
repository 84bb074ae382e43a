"""The tables of a run that people look at, as data frames: stores, index, classes, videos, skipped."""

import pandas as pd

from cache.layout import TABLES
from cache.reader import Run
from cache.table_files import read_csv, read_table

_NUMBERS = ("num_source_frames", "num_frames", "source_fps", "duration_seconds", "height", "width", "zoom_y", "zoom_x")


def classes(run: Run) -> pd.DataFrame:
    """One row per class, in the order of classes.txt.

    Columns: class_index, label, train_videos and test_videos (videos with the class that were not skipped), actions
    (annotated in those videos), mean_seconds (of the actions with known times; NaN where there is none).
    """
    labels, kept = run.labels, read_csv(run.path / "videos.csv", ["video_id"])[["video_id"]]
    labels = labels[labels.label != ""].merge(kept, on="video_id")
    known = labels[labels.end > labels.start]
    seconds = (known.end - known.start).groupby(known.label).mean()
    names = read_table(run.path / "classes.txt").splitlines()
    found = pd.DataFrame({"class_index": range(len(names)), "label": names})
    for split in ("train", "test"):
        counts = labels[labels.split == split].groupby("label").video_id.nunique()
        found[f"{split}_videos"] = found.label.map(counts).fillna(0).astype(int)
    found["actions"] = found.label.map(labels.label.value_counts()).fillna(0).astype(int)
    found["mean_seconds"] = found.label.map(seconds).astype(float)
    return found


def videos(run: Run) -> pd.DataFrame:
    """One row per planned video, in the order of videos.csv.

    Columns: those of videos.csv that describe the video, labels (number of its classes), rows (planned), saliency_done
    and crop_done (numbers of rows); and the means over its rows, NaN where nothing is done: saliency_share, entropy,
    box_source_height, box_source_width.
    """
    columns, numbers = ["video_id", "split", *_NUMBERS, "timing", "labels"], (*_NUMBERS, "labels")
    found = read_csv(run.path / "videos.csv", columns, numbers)[columns]
    rows = run.index.groupby("video_id")
    counts = rows[["saliency_done", "crop_done"]].sum().astype(int)
    counts.insert(0, "rows", rows.size())
    means = rows[["saliency_share", "entropy", "box_source_height", "box_source_width"]].mean().astype(float)
    return found.merge(counts.join(means), left_on="video_id", right_index=True, how="left")


_MAKERS = {
    "stores": Run.stores,
    "index": lambda run: run.index,
    "classes": classes,
    "videos": videos,
    "skipped": lambda run: run.skipped,
}


def table(run: Run, name: str) -> pd.DataFrame:
    """One of `layout.TABLES`; ValueError where there is no such table."""
    if name not in _MAKERS:
        raise ValueError(f"table {name!r} is none of {', '.join(TABLES)}")
    return _MAKERS[name](run)
