"""Tables of a run for people: what it holds by class, by video, by row; data frames, ready for CSV and Parquet."""

import pandas as pd

from cache.layout import TABLES
from cache.reader import Run

_NUMBERS = ("num_source_frames", "num_frames", "source_fps", "duration_seconds", "height", "width", "zoom_y", "zoom_x")


def table(run: Run, name: str) -> pd.DataFrame:
    """One of TABLES.

    Raises:
        ValueError: no such table.
    """
    if name not in TABLES:
        raise ValueError(f"table {name!r} is none of {', '.join(TABLES)}")
    if name in ("classes", "videos"):
        return {"classes": classes, "videos": videos}[name](run)
    found = getattr(run, name)
    return found() if callable(found) else found


def classes(run: Run) -> pd.DataFrame:
    """One row per class, in the order of classes.txt.

    Columns: class_index, label, train_videos and test_videos (that have the class and are not left out), actions (of
    those videos, as annotated), mean_seconds (of the actions whose times are known; NaN where none is).
    """
    labels, kept = run.labels, run.videos[["video_id"]]
    labels = labels[labels.label != ""].merge(kept, on="video_id")
    known = labels[labels.end > labels.start]
    seconds = (known.end - known.start).groupby(known.label).mean()
    names = (run.path / "classes.txt").read_text(encoding="utf-8").splitlines()
    found = pd.DataFrame({"class_index": range(len(names)), "label": names})
    for split in ("train", "test"):
        counts = labels[labels.split == split].groupby("label").video_id.nunique()
        found[f"{split}_videos"] = found.label.map(counts).fillna(0).astype(int)
    found["actions"] = found.label.map(labels.label.value_counts()).fillna(0).astype(int)
    found["mean_seconds"] = found.label.map(seconds).astype(float)
    return found


def videos(run: Run) -> pd.DataFrame:
    """One row per planned video, in the order of videos.csv.

    Columns: those of videos.csv that describe the video, labels (classes it has), rows (planned), saliency_done and
    crop_done (rows), and means over its rows: saliency_share, entropy, box_source_height, box_source_width (NaN where
    nothing is done).
    """
    found = run.videos[["video_id", "split", *_NUMBERS, "timing", "labels"]].copy()
    for name in (*_NUMBERS, "labels"):
        found[name] = pd.to_numeric(found[name])
    rows = run.index.groupby("video_id")
    counts = rows[["saliency_done", "crop_done"]].sum().astype(int)
    counts.insert(0, "rows", rows.size())
    means = rows[["saliency_share", "entropy", "box_source_height", "box_source_width"]].mean().astype(float)
    return found.merge(counts.join(means), left_on="video_id", right_index=True, how="left")
