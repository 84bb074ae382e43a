"""The annotation files that a config names, whatever their format."""

from pathlib import Path

from cache.errors import relative_to
from pipeline.config import Data
from pipeline.data.annotations import Annotations
from pipeline.data.charades_csv import read_charades
from pipeline.data.plain_csv import read_plain
from pipeline.errors import StageError

CHARADES_PAGE = "https://prior.allenai.org/projects/charades (see pipeline/data/README.md)"
READERS = {  # by format: the function, and how many files `data.annotations` names
    "plain": (read_plain, 1),
    "charades": (read_charades, 2),
    "miniature": (read_charades, 2),
}


def read_annotations(data: Data) -> Annotations:
    """Read the annotation files; `data.eval_ids` moves videos to the evaluation split.

    Raises:
        AnnotationError: a file is not exactly its format, or a video not of `data.task`, with two labels or none.
        StageError: a setting or a file is missing.
    """
    read, needed = READERS[data.format]
    if len(data.annotations) != needed:
        raise StageError(f"data.annotations: format {data.format} takes {needed} file(s), got {len(data.annotations)}")
    if missing := [path for path in (*data.annotations, data.classes) if not Path(path).is_file()]:
        names = ", ".join(path or "data.classes" for path in missing)
        hint = f"; Charades.zip, from {CHARADES_PAGE}, holds them" if data.format == "charades" else ""
        raise StageError(f"{names}: no such annotation file{relative_to(missing[0])}{hint}")
    annotations = read(*(Path(path) for path in data.annotations), Path(data.classes)).for_task(data.task)
    if annotations.videos.empty:
        raise StageError(f"{', '.join(data.annotations)}: no video, nothing below the header")
    unknown = set(data.eval_ids) - set(annotations.videos.video_id)
    if unknown:
        raise StageError(f"--eval-ids: {', '.join(sorted(unknown))} not in the annotations")
    annotations.videos.loc[annotations.videos.video_id.isin(data.eval_ids), "split"] = "test"
    return annotations
