"""Decode every annotated video once, whole: what it is, or why it cannot be used."""

import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed

from cache.errors import DamagedError
from cache.table_files import read_csv
from pipeline.config import Config
from pipeline.data.annotations import Annotations
from pipeline.data.segments import is_segment
from pipeline.data.video.sandbox import Prober
from pipeline.errors import DecoderCrashed
from pipeline.run.folder import read_frame_times
from pipeline.run.plan_rows import LOW_ZOOM, check_root, clock_oddities, probe_row
from pipeline.workers.engines import Engine, results
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import SharedDirectory, share_directory

log = logging.getLogger(__name__)

VIDEO_COLUMNS = (
    *("video_id", "split", "path", "num_source_frames", "num_frames", "source_fps", "duration_seconds"),
    *("height", "width", "zoom_y", "zoom_x", "timing", "bytes", "sha256", "labels"),
    *("video_stream", "first_frame", "longest_gap", "pictures"),
)
NEW_COLUMNS = VIDEO_COLUMNS[-4:]  # which the videos.csv of an older run does not get
NAMED = 3  # videos that a warning names
BLOCK = 16  # videos a task of a cluster: each task starts a process that decodes them


def known_videos(run_dir: Path) -> tuple[dict[str, dict], tuple[str, ...]]:
    """Return the rows of an earlier videos.csv by id, so that only what is new or changed is decoded, and its columns.

    Without one, or a damaged one, there are no rows, and the columns are those of VIDEO_COLUMNS.
    """
    if not (run_dir / "videos.csv").exists():
        return {}, VIDEO_COLUMNS
    try:
        table = read_csv(run_dir / "videos.csv", [name for name in VIDEO_COLUMNS if name not in NEW_COLUMNS])
        columns = tuple(name for name in VIDEO_COLUMNS if name in table)
        texts = ("video_id", "split", "path", "timing", "sha256", "video_stream", "pictures")
        table = read_csv(run_dir / "videos.csv", columns, [name for name in columns if name not in texts])
        times = read_frame_times(run_dir)
    except DamagedError as error:
        log.warning("%s; now every video is decoded again", error)
        return {}, VIDEO_COLUMNS
    own = [name for name in columns if name not in ("video_id", "split", "labels")]
    new = dict(zip(NEW_COLUMNS, ("", 0.0, 0.0, ""), strict=True))
    rows = {row["video_id"]: new | {name: row[name] for name in own} for row in table.to_dict("records")}
    return {one: row | {"times": tuple(times.get(one, ()))} for one, row in rows.items()}, columns


def probe_all(
    config: Config, run_dir: Path, annotations: Annotations, known: dict[str, dict], engine: Engine
) -> tuple[pd.DataFrame, list[list[str]]]:
    """Return rows of videos.csv and rows of skipped.csv, in the order of the annotations.

    Those of videos.csv have no labels yet, and the times of frames, see `VideoInfo.times`.

    Args:
        known: rows of an earlier videos.csv by id; a file with the same SHA-256 is not decoded again.
    """
    ids = annotations.videos.video_id.tolist()
    check_root(config, annotations.source(ids[0]).video_id)
    files: dict[tuple, list[tuple]] = {}  # the samples of each file
    for one in ids:
        source = annotations.source(one)
        files.setdefault(source[:2], []).append((one, source, known.get(one)))
    answers = _probe_each(config, run_dir, [tuple(of_file) for of_file in files.values()], engine)
    found = dict(progress(answers, len(ids), "prepare", "videos"))
    videos, skipped = [], []
    for video_id, split in annotations.videos[["video_id", "split"]].itertuples(index=False, name=None):
        one = found[video_id]
        if isinstance(one, dict):
            videos.append({"video_id": video_id, "split": split, **one})
        else:
            skipped.append([video_id, split, *one])
    return pd.DataFrame(videos, columns=[*VIDEO_COLUMNS, "times"]), skipped


def oddities(videos: pd.DataFrame) -> Iterator[str]:
    """Yield what is odd about rows of videos.csv, each with the first videos of which it is so."""
    found: dict[str, list[str]] = {}
    for row in videos.to_dict("records"):
        for text, fix in clock_oddities(row):
            found.setdefault(f"of {len(videos)} videos {text}; {fix}", []).append(row["video_id"])
    splits = videos.groupby("sha256").split.nunique()
    for one in videos[videos.sha256.isin(splits.index[splits > 1])].sort_values("sha256", kind="stable").itertuples():
        text = "videos are the same file in training and in evaluation, so that scores are too high"
        if is_segment(one.path):
            text = "segments are of a recording that has some in training and some in evaluation, so scores may be high"
        found.setdefault(text, []).append(f"{one.video_id} ({one.split})")
    for text, some in found.items():
        yield f"{len(some)} {text}: {_some(some)}"
    if low := videos.video_id[videos[["zoom_y", "zoom_x"]].min(axis=1) < LOW_ZOOM].tolist():
        text = f"of {len(videos)} videos are less than {LOW_ZOOM} times as large as the resized frame: their focused"
        hint = "(zoom_y and zoom_x in videos.csv)"
        yield f"{len(low)} {text} volumes can hold hardly more than upscaling: {_some(low)} {hint}"


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:NAMED]) + ", ..." * (len(ids) > NAMED)


def _probe_each(config: Config, run_dir: Path, files: list[tuple], engine: Engine) -> Iterator[tuple]:
    """Yield what `_probe_file` returns of every file, in any order, from threads here or from tasks of a cluster.

    Args:
        files: for each its samples, (id, source, known row).
    """
    if engine.is_local:
        with _prober(config) as prober:
            names = _names(Path(config.data.videos))
            there = [file for file in files if file[0][1].path or file[0][1].video_id in names]
            # a missing file is found at once; handing it to a thread would take longer
            for file in (one for one in files if not (one[0][1].path or one[0][1].video_id in names)):
                yield from _probe_file(config, prober, file)
            for found in Parallel(n_jobs=config.workers, return_as="generator_unordered", prefer="threads")(
                delayed(_probe_file)(config, prober, file) for file in there
            ):
                yield from found
        return
    blocks = [tuple(files[first : first + BLOCK]) for first in range(0, len(files), BLOCK)]
    with share_directory(run_dir, Path(config.data.videos)) as site:
        for _, found in results(partial(_probe_block, config, site), blocks, 1, engine):
            yield from found


def _names(root: Path) -> set[str]:
    """Return the names in a folder, with and without extension."""
    names = os.listdir(root)
    return {*names, *(name.rpartition(".")[0] for name in names)}


def _probe_block(config: Config, site: SharedDirectory, block: tuple, crashed: str = "") -> tuple[tuple, list[tuple]]:
    """Return the block, and what `_probe_file` returns of each of its files."""
    if crashed:
        return block, [(sample[0], (DecoderCrashed.__name__, crashed)) for file in block for sample in file]
    with site.enter(), _prober(config) as prober:
        return block, [one for file in block for one in _probe_file(config, prober, file)]


def _prober(config: Config) -> Prober:
    return Prober(config.data.video_seconds, round(config.data.video_memory * 2**30))


def _probe_file(config: Config, prober: Prober, file: tuple) -> list[tuple[str, dict | tuple[str, str]]]:
    """Return each sample of a file with what `probe_row` says of it; the file is decoded once at most."""
    return [(video_id, probe_row(config, prober, source, known)) for video_id, source, known in file]
