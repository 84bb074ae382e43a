"""One pass over some videos: which windows they have, and what the networks see in them, video by video."""

import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import pandas as pd
import torch

from cache.fingerprint import fingerprint
from cache.geometry import Box
from models import fusion
from pipeline.config import Clips, Task
from pipeline.data.clips import PlannedVideo
from pipeline.data.own_boxes import OwnBoxes
from pipeline.data.video.probe import probe, scan
from pipeline.errors import StageError, VideoError, VideoUnreadable
from pipeline.predict.model import Model, Seen
from pipeline.predict.settings import Settings
from pipeline.predict.sources import Source
from pipeline.predict.windows import (
    Window,
    read_windows,
    starts_as_evaluated,
    starts_by_stride,
    stride_frames,
    video_of,
)
from pipeline.run.predictions import FACTS, VideoTable, fact_columns, is_fact
from pipeline.workers.prefetch import prefetch

log = logging.getLogger(__name__)

AHEAD = {"cpu": 1 << 26, "cuda": 1 << 29}  # bytes of source frames that a batch may hold beyond its first window
GROUP = 64  # windows of videos that share batches, at least; the last digits of a score depend on them


@dataclass(frozen=True)
class WindowRule:
    """Which windows are looked at: those of `evaluate`, or one every `stride` seconds; see `stride_frames`."""

    clips: Literal["stride", "as-evaluated"] = "stride"
    stride: float | None = None

    def words(self, clips: Clips) -> str:
        """Say which windows they are, for the record of the tables."""
        if self.clips == "as-evaluated":
            return f"the {clips.eval_clips} clips of evaluate"
        return f"one every {self.stride:g} s" if self.stride else "one every second, or quarter of a shorter window"


@dataclass(frozen=True)
class Job:
    """A video and its windows."""

    video: PlannedVideo
    path: str  # as it was given
    starts: tuple[int, ...]  # first frames of the windows
    made_from: str  # key of weights, settings and content
    as_evaluated: bool = True  # in batches as large as those of the stages

    def most_windows(self, num_frames: int, num_bytes: int) -> int:
        """Return how many windows of num_frames a batch may have whose source frames, but the first's, fit in bytes."""
        if self.as_evaluated or len(self.starts) < 2:
            return sys.maxsize
        new = min(num_frames, self.starts[1] - self.starts[0]) * math.prod(self.video.source_size) * 3
        return 1 + num_bytes // new


def plan(
    settings: Settings,
    sources: Iterable[Source],
    rule: WindowRule,
    failed: Callable[[str, VideoError], None],
    own_boxes: OwnBoxes | None = None,
    look_above: float | None = None,
) -> Iterator[Job]:
    """Yield the jobs of some videos in their order; call `failed` with path and error of one that cannot be used.

    Raises:
        AnnotationError: a box of one's own leaves its video.
        StageError: the experiment takes such boxes, and there are none.
    """
    clips = settings.clips
    if settings.boxes == "own" and own_boxes is None:
        raise StageError(f"{settings.experiment} looks where a table says: give one of these videos, --boxes FILE.csv")
    for source in sources:
        try:
            look_up = probe if rule.clips == "as-evaluated" else scan  # `prepare` probes
            if source.path.is_dir() and not settings.source_fps:
                raise VideoUnreadable(f"{source.path}: a folder of frames, and the run has no data.source_fps")
            info = look_up(source.path, settings.source_fps or None)
            video = video_of(source.video_id, source.path, info, clips, settings.source_fps)
            if rule.clips == "as-evaluated":
                starts = starts_as_evaluated(video.num_frames, clips)
            else:
                step = stride_frames(rule.stride, clips, video.fps)
                starts = starts_by_stride(video.num_frames, clips.num_frames, step)
        except VideoError as error:
            failed(str(source.path), error)
            continue
        facts = {"weights": [settings.base, settings.weights], "experiment": settings.experiment, "starts": starts}
        facts |= {"protocol": settings.protocol, "video": [source.video_id, video.sha256]}
        if own_boxes:
            own_boxes.check_inside(source.video_id, video.source_size)
            facts |= {"own_boxes": own_boxes.sha256}
        facts |= {} if look_above is None else {"look_above": look_above}
        yield Job(video, str(source.path), tuple(starts), fingerprint(facts), rule.clips == "as-evaluated")


def groups(settings: Settings, jobs: Iterable[Job], rule: WindowRule) -> Iterator[list[Job]]:
    """Yield jobs that share batches: of GROUP windows at least, or as many videos as stage 1 takes together.

    They do not depend on what is done already, so that a resumed command computes the same bits.
    """
    group: list[Job] = []
    for job in jobs:
        group.append(job)
        by_video, windows = len(group) >= settings.clips.videos_per_unit, sum(len(one.starts) for one in group)
        if by_video if rule.clips == "as-evaluated" else windows >= GROUP:
            yield group
            group = []
    if group:
        yield group


def look_at(
    model: Model,
    group: list[Job],
    failed: Callable[[str, VideoError], None],
    seen: Callable[[Job, Seen], None] = lambda job, one: None,
) -> Iterator[tuple[Job, VideoTable]]:
    """Yield what was found in each video of a group.

    Args:
        failed: is called with path and error of a video that cannot be read.
        seen: is called with every window that was looked at.
    """
    lost: set[str] = set()
    by_id = {job.video.video_id: job for job in group}

    def windows() -> Iterator[Window]:
        for job in group:
            try:
                yield from read_windows(job.video, list(job.starts), model.settings.clips)
            except VideoError as error:
                lost.add(job.video.video_id)
                failed(job.path, error)

    most = AHEAD["cpu" if model.device.type == "cpu" else "cuda"]
    sizes = [job.most_windows(model.settings.clips.num_frames, most) for job in group]
    size = min(model.settings.saliency.batch_size, *sizes)
    with closing(prefetch(windows(), size)) as coming:
        for video_id, looks in groupby(model.look(coming, size), key=lambda one: one.clip.video_id):
            rows, job = [], by_id[video_id]
            for one in looks:
                seen(job, one)
                rows.append(one._replace(saliency=None))
            if video_id not in lost:
                table = _table(rows, model.settings)
                segment = model.settings.segment_frames / job.video.fps
                yield job, VideoTable(job.path, job.video.source_size, table, model.settings.pooling, segment=segment)


def class_scores(logits: np.ndarray, task: Task = "multi_label") -> np.ndarray:
    """Turn logits (..., C) into scores in [0, 1], float64; see `models.fusion.class_scores`."""
    return fusion.class_scores(torch.from_numpy(np.asarray(logits, np.float64)), task).numpy()


def _table(rows: list[Seen], settings: Settings) -> pd.DataFrame:
    """Return the table of one video; see `VideoTable`."""
    logits = np.stack([one.logits for one in rows])
    if np.isnan(logits).any():
        raise StageError("the scores are NaN: the training of the model diverged; train it with a lower rate")
    facts = [(one.clip.video_id, one.start, one.end, one.entropy, *_edges(one.boxes_source)) for one in rows]
    table = pd.DataFrame(facts, columns=fact_columns(len(rows[0].boxes_source)))
    return pd.concat([table, pd.DataFrame(class_scores(logits, settings.task), columns=list(settings.classes))], axis=1)


def _edges(boxes: list[Box]) -> list[int]:
    return [edge for box in boxes for edge in (box.top, box.left, box.height, box.width)]


def check_classes_are_columns(classes: Iterable[str]) -> None:
    """Refuse classes with the names of other columns of the tables; StageError names the first."""
    if taken := [name for name in classes if is_fact(name)]:
        raise StageError(f"the class {taken[0]!r} has the name of a column of the tables of predictions: {FACTS}")
