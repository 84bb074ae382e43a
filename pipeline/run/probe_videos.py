"""Decode every annotated video once, whole: what it is, or why it cannot be used."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed

from pipeline.config import Config
from pipeline.data.annotations import Annotations
from pipeline.data.video.sandbox import Prober
from pipeline.errors import DecoderCrashed
from pipeline.run.plan_rows import check_root, probe_row
from pipeline.workers.engines import Engine, results
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import SharedDirectory, share_directory

VIDEO_COLUMNS = (
    *("video_id", "split", "path", "num_source_frames", "num_frames", "source_fps", "duration_seconds"),
    *("height", "width", "zoom_y", "zoom_x", "timing", "bytes", "sha256", "labels"),
)
BLOCK = 16  # videos a task of a cluster: each task starts a process that decodes them


def probe_all(
    config: Config, run_dir: Path, annotations: Annotations, known: dict[str, dict], engine: Engine
) -> tuple[pd.DataFrame, list[list[str]]]:
    """Return rows of videos.csv (without labels) and rows of skipped.csv, in the order of the annotations.

    Args:
        known: rows of an earlier videos.csv by id; a file with the same SHA-256 is not decoded again.
    """
    ids = annotations.videos.video_id.tolist()
    check_root(config, ids[0])
    found = dict(progress(_probe_each(config, run_dir, ids, known, engine), len(ids), "prepare", "videos"))
    videos, skipped = [], []
    for video_id, split in annotations.videos[["video_id", "split"]].itertuples(index=False, name=None):
        one = found[video_id]
        if isinstance(one, dict):
            videos.append({"video_id": video_id, "split": split, **one})
        else:
            skipped.append([video_id, split, *one])
    return pd.DataFrame(videos, columns=VIDEO_COLUMNS[:-1]), skipped


def _probe_each(config: Config, run_dir: Path, ids: list[str], known: dict, engine: Engine) -> Iterator[tuple]:
    """Yield what `_probe_one` returns of every video, in any order, from threads here or from tasks of a cluster."""
    jobs = [(video_id, known.get(video_id)) for video_id in ids]
    if engine.is_local:
        with _prober(config) as prober:
            there = _names(Path(config.data.videos))
            # a missing file is found at once; handing it to a thread would take longer
            yield from (_probe_one(config, prober, *job) for job in jobs if job[0] not in there)
            yield from Parallel(n_jobs=config.workers, return_as="generator_unordered", prefer="threads")(
                delayed(_probe_one)(config, prober, *job) for job in jobs if job[0] in there
            )
        return
    blocks = [tuple(jobs[first : first + BLOCK]) for first in range(0, len(jobs), BLOCK)]
    with share_directory(run_dir, Path(config.data.videos)) as site:
        for _, found in results(partial(_probe_block, config, site), blocks, 1, engine):
            yield from found


def _names(root: Path) -> set[str]:
    """Return the names in a folder, with and without extension."""
    names = os.listdir(root)
    return {*names, *(name.rpartition(".")[0] for name in names)}


def _probe_block(config: Config, site: SharedDirectory, block: tuple, crashed: str = "") -> tuple[tuple, list[tuple]]:
    """Return the block, and what `_probe_one` returns of each of its videos."""
    if crashed:
        return block, [(video_id, (DecoderCrashed.__name__, crashed)) for video_id, _ in block]
    with site.enter(), _prober(config) as prober:
        return block, [_probe_one(config, prober, *job) for job in block]


def _prober(config: Config) -> Prober:
    return Prober(config.data.video_seconds, round(config.data.video_memory * 2**30))


def _probe_one(config: Config, prober: Prober, video_id: str, known: dict | None) -> tuple[str, dict | tuple[str, str]]:
    return video_id, probe_row(config, prober, video_id, known)
