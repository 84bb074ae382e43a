"""Predict from Python: `focus.load("runs/mine").predict(["holiday.mp4", "kitchen/"])`."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import Clips
from pipeline.data.clips import PlannedVideo
from pipeline.data.own_boxes import read_own_boxes
from pipeline.errors import VideoError
from pipeline.predict.film import save_film, small_map
from pipeline.predict.load import load_model
from pipeline.predict.model import Model, Seen
from pipeline.predict.passes import Job, WindowRule, check_classes_are_columns, groups, look_at, plan
from pipeline.predict.sources import find_sources
from pipeline.predict.tables import thresholds
from pipeline.run.predictions import VideoTable
from pipeline.run.timeline import DEFAULT_RULE, Rule, segments

__all__ = ["Focus", "Found", "Rule", "WindowRule", "load"]
log = logging.getLogger(__name__)
BY_STRIDE = WindowRule()


@dataclass(frozen=True)
class Found(VideoTable):
    """What was found in one video; see VideoTable for `scores`, `windows` and `boxes`."""

    video: PlannedVideo
    clips: Clips
    thresholds: pd.Series  # by class
    rule: Rule
    maps: list[np.ndarray]  # see `film.small_map`

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """The segments: start, end (seconds), label, score; see `timeline.segments`."""
        return segments(self.windows, self.thresholds, self.rule)

    def save_film(self, path: str | Path) -> None:
        """Write a film (.mp4) of saliency, box, focused view and scores of the moment; see `film.save_film`."""
        save_film(Path(path), self, self.video, self.clips, self.maps, self.thresholds)


class Focus:
    """A trained experiment, ready for videos."""

    def __init__(self, model: Model):
        check_classes_are_columns(model.settings.classes)
        self.model = model

    @property
    def experiment(self) -> str:
        """Its name, as in results.csv."""
        return self.model.settings.experiment

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.model.settings.classes)

    def predict(
        self,
        places: str | Path | Iterable[str | Path],
        windows: WindowRule = BY_STRIDE,
        threshold: float | str | Mapping[str, float] = "stored",
        rule: Rule = DEFAULT_RULE,
        failed: dict[str, VideoError] | None = None,
        boxes: str | Path | None = None,
        look_above: float | None = None,
    ) -> Iterator[Found]:
        """Yield what is found in each video, as soon as it is known.

        Args:
            places: videos, folders and lists; see `sources.find_sources`.
            windows: which windows are looked at.
            threshold: as `--threshold`, see `tables.thresholds`; or by class.
            rule: how segments are made; `one_label` is that of the run's task.
            failed: takes the errors of videos that cannot be read, by path; None to warn of them.
            boxes: a table of boxes of your own, where the second network looks; see `own_boxes.read_own_boxes`.
            look_above: a second look only in windows where Base's entropy, nats, is above this; None for all.
        Raises:
            StageError: a place has no video, or the threshold is none.
            AnnotationError: a line of `boxes` is wrong.
        """
        settings, maps = self.model.settings, {}
        rule = replace(rule, one_label=settings.task == "single_label")
        if isinstance(threshold, Mapping):
            values = pd.Series(threshold)[self.classes]
        else:
            values, _ = thresholds(str(threshold), self.classes, settings.stored_thresholds, rule.one_label)

        def note(path: str, error: VideoError) -> None:
            if failed is None:
                log.warning("%s: %s", type(error).__name__, error)
            else:
                failed[path] = error

        def seen(job: Job, one: Seen) -> None:
            kept = maps.setdefault(job.video.video_id, [])
            kept += [] if one.saliency is None else [small_map(one.saliency)]

        model = copy(self.model)  # so that several predictions can go on at once
        model.look_above = look_above
        model.own_boxes = boxes and read_own_boxes(Path(boxes))
        sources = find_sources([places] if isinstance(places, str | Path) else list(places))
        for group in groups(settings, plan(settings, sources, windows, note, model.own_boxes), windows):
            for job, one in look_at(model, group, note, seen):
                shown = maps.pop(job.video.video_id)
                known = one.path, one.size, one.table, one.pooling, job.video, settings.clips, values, rule, shown
                yield Found(*known, segment=one.segment)
            maps.clear()


def load(
    folder: str | Path, experiment: str | None = None, device: str = "auto", overrides: Iterable[str] = ()
) -> Focus:
    """Load an experiment of a run, or one that was exported.

    Args:
        folder: the run, or what `export` wrote.
        experiment: as in results.csv, or a folder in models/; None for the highest result.
        device: torch name such as "cuda:1"; "auto" is CUDA where there is one.
        overrides: settings to change, `section.key=value`, as `--set`.
    Raises:
        StageError: no run, no trained model, no such experiment, or its boxes know the labels.
    """
    return Focus(load_model(Path(folder), experiment, device, tuple(overrides)))
