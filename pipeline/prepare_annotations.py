"""The annotations a config names, and the snapshot of all labels that a run keeps."""

import csv
import io
from pathlib import Path

import numpy as np

from pipeline.annotations import PLAIN_COLUMNS, Annotations, read_charades, read_plain
from pipeline.config import Config
from pipeline.workspace import StageError


def read_annotations(config: Config) -> Annotations:
    """The config's annotation files; `data.eval_ids` moves videos to the evaluation split.

    Raises:
        AnnotationError: a file is not exactly its format. StageError: a setting or a file is missing.
    """
    data = config.data
    needed = {"charades": 2, "plain": 1, "miniature": 2}[data.format]
    if len(data.annotations) != needed:
        raise StageError(f"data.annotations: format {data.format} takes {needed} file(s), got {len(data.annotations)}")
    for path in (*data.annotations, data.classes):
        if not Path(path).is_file():
            raise StageError(f"{path or 'data.classes'}: no such annotation file")
    read = read_plain if data.format == "plain" else read_charades
    annotations = read(*(Path(path) for path in data.annotations), Path(data.classes))
    unknown = set(data.eval_ids) - set(annotations.videos.video_id)
    if unknown:
        raise StageError(f"--eval-ids: {', '.join(sorted(unknown))} not in the annotations")
    annotations.videos.loc[annotations.videos.video_id.isin(data.eval_ids), "split"] = "test"
    return annotations


def labels_csv(annotations: Annotations) -> bytes:
    """All labels in our plain format. Impossible times are written as 1, 0, which reads back as impossible."""
    splits = dict(annotations.videos[["video_id", "split"]].itertuples(index=False, name=None))
    by_video = {video_id: [] for video_id in splits}
    for video_id, index, start, end in annotations.actions.itertuples(index=False, name=None):
        whole = end == float("inf")
        times = ["1", "0"] if np.isnan(start) else ["", ""] if whole else [_seconds(start), _seconds(end)]
        line = [video_id, splits[video_id], *times, annotations.classes[index]]
        if line not in by_video[video_id]:
            by_video[video_id].append(line)
    lines = [
        line for video_id, found in by_video.items() for line in found or [[video_id, splits[video_id], "", "", ""]]
    ]
    return csv_bytes(PLAIN_COLUMNS, lines)


def _seconds(value: float) -> str:
    """Seconds as plain decimals, which `read_plain` takes."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def csv_bytes(columns: tuple[str, ...], rows: list[list]) -> bytes:
    """A table as CSV."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue().encode()
