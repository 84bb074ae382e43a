"""The command `predict`: videos in, a folder of tables out; resumed by video, on one process or several."""

import logging
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import repeat
from pathlib import Path

import pandas as pd

from cache.commit import locked
from cache.fingerprint import differences
from cache.folder_checks import check_folder
from pipeline.data.own_boxes import OwnBoxes, read_own_boxes
from pipeline.errors import DecoderCrashed, StageError, VideoError
from pipeline.predict.film import save_film, small_map
from pipeline.predict.load import load_model, read_settings
from pipeline.predict.model import Model, Seen
from pipeline.predict.passes import Job, WindowRule, check_classes_are_columns, groups, look_at, plan
from pipeline.predict.sources import Source, find_sources
from pipeline.predict.tables import COLUMNS, FORMATS, Report, read_failed, wanted, write_tables
from pipeline.run.outcome import Outcome
from pipeline.run.overwrite import check_overwrite
from pipeline.run.predictions import (
    FILMS,
    WINDOWS,
    film_path,
    is_done,
    is_predictions,
    read_facts,
    read_video,
    video_path,
    videos_in,
    write_video,
)
from pipeline.workers.device_claims import claim_device
from pipeline.workers.engines import results
from pipeline.workers.progress import progress

log = logging.getLogger(__name__)

TEMPORARY = re.compile(r"\..+\.(mp4|[0-9a-f]{32})\.tmp")  # as `cache.commit` and `film` name a file that is not whole
SHOWN = 3  # failed videos that are named at the end
Failed = dict[str, tuple[str, str]]  # by path: the name of the error and its text


@dataclass(frozen=True)
class Experiment:
    """The networks to use, so that every process can load them: see `load.load_model`."""

    folder: Path
    experiment: str | None = None
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    own_boxes: Path | None = None  # a table of boxes to look at, see `own_boxes`
    look_above: float | None = None  # see `model.Model`


@dataclass(frozen=True)
class Workers:
    """Who works: so many processes, or one a device (torch names)."""

    number: int = 1
    devices: tuple[str, ...] = ()


def run(
    experiment: Experiment,
    places: list[str | Path],
    out: Path,
    windows: WindowRule,
    report: Report,
    workers: Workers,
    films: bool = False,
) -> Outcome:
    """Predict videos; see `sources.find_sources` for the places.

    Writes windows.parquet/ (and films/, if wanted) video by video, then videos.csv, timeline.csv, boxes.csv, failed.csv
    and their record. The same command again goes on with what is missing, and computes the same bits.

    Raises:
        StageError: nothing to predict, no such model, or `out` holds other predictions.
    """
    settings = read_settings(experiment.folder, experiment.experiment, experiment.overrides)
    own = experiment.own_boxes and read_own_boxes(experiment.own_boxes)
    check_classes_are_columns(settings.classes)
    one_label = settings.task == "single_label"
    shown = wanted(report, list(settings.classes), settings.stored_thresholds, one_label)
    sources = find_sources(places)
    facts = settings.scored_by() | {"windows": windows.words(settings.clips)} | _own_facts(own, sources)
    look_above = experiment.look_above
    facts |= {} if look_above is None else {"look_above": look_above}
    check_folder(out)
    with locked(out / ".lock", sign=True) as mine:
        if not mine:
            raise StageError(f"{out}: another process predicts into this folder; wait for it, or use another --out")
        _check_is_same(out, facts, [source.video_id for source in sources])
        if films:
            _check_no_source_is_a_film(out, sources)
        _remove_temporary(out)
        failed: Failed = {}
        before = {path for path, _, _ in read_failed(out)}
        planned = plan(settings, sources, windows, partial(_note, failed), own, look_above)
        looked_up = progress(planned, len(sources), "look up", "videos")
        grouped = list(groups(settings, looked_up, windows))
        work = _Work(experiment, out, shown.thresholds if films else None)
        todo = [group for group in (_todo(work, group, before) for group in grouped) if group]
        _work_on(work, todo, failed, workers)
        ids = [job.video.video_id for group in grouped for job in group if job.path not in failed]
        for video_id in set(videos_in(out)) - set(ids):  # of a file that was sound before
            video_path(out, video_id).unlink()
        write_tables(out, ids, facts, shown, [(path, *reason) for path, reason in sorted(failed.items())])
    rows = sum(len(job.starts) for group in todo for job in group)
    summary = f"{len(ids)} videos, {rows} windows now, {settings.experiment}; thresholds: {shown.thresholds_from}"
    if look_above is not None and ids:
        above = pd.concat([read_video(out, video_id).table.entropy > look_above for video_id in ids]).mean()
        summary += f"; looked twice at {above:.1%} of the windows, those with an entropy above {look_above:.4g}"
    return Outcome(out / "videos.csv", summary, len(failed), _say_failed(out, failed))


@dataclass(frozen=True)
class _Work:
    """What a process needs to work on a group; it travels to other processes."""

    experiment: Experiment
    out: Path
    films: pd.Series | None  # thresholds, by class, where films are wanted

    def is_done(self, job: Job) -> bool:
        """Whether all of a video is written."""
        film = self.films is None or self._film(job).is_file()
        return film and is_done(self.out, job.video.video_id, job.made_from)

    def _film(self, job: Job) -> Path:
        return film_path(self.out, job.video.video_id)

    def do(self, group: list[Job], failed: Failed, ticks: Iterator | None = None) -> None:
        """Predict the videos of a group and write what was found in them."""
        model, maps = _model(self.experiment), defaultdict(list)

        def seen(job: Job, one: Seen) -> None:
            if self.films is not None and one.saliency is not None:
                maps[job.video.video_id].append(small_map(one.saliency))
            if ticks:
                next(ticks)

        for job, found in look_at(model, group, partial(_note, failed), seen):
            if self.films is not None:
                own = maps.pop(job.video.video_id, [])
                save_film(self._film(job), found, job.video, model.settings.clips, own, self.films)
            write_video(self.out, found, job.made_from)


@lru_cache(maxsize=1)
def _model(experiment: Experiment) -> Model:
    model = load_model(experiment.folder, experiment.experiment, experiment.device, experiment.overrides)
    model.own_boxes = experiment.own_boxes and read_own_boxes(experiment.own_boxes)
    model.look_above = experiment.look_above
    return model


def _work_on(work: _Work, todo: list[list[Job]], failed: Failed, workers: Workers) -> None:
    if not todo:
        return
    if workers.number == 1 and not workers.devices:
        windows = sum(len(job.starts) for group in todo for job in group)
        ticks = progress(repeat(None), windows, "predict", "windows")
        for group in todo:
            work.do(group, failed, ticks)
        next(ticks)  # the display counts a window when the next one is asked for
        return
    call = partial(_call, work, workers.devices, f"focused-attention-{uuid.uuid4().hex}")
    jobs = [tuple(group) for group in todo]
    for _, lost in progress(
        results(call, jobs, len(workers.devices) or workers.number), len(jobs), "predict", "groups"
    ):
        failed |= lost


def _call(
    work: _Work, devices: tuple[str, ...], token: str, group: tuple[Job, ...], crashed: str = ""
) -> tuple[tuple[Job, ...], Failed]:
    """Work on one group, on a device of its own; see `engines.results`."""
    failed: Failed = {}
    if crashed:
        for job in group:
            _note(failed, job.path, DecoderCrashed(crashed))
    elif devices:
        with claim_device(devices, token) as device:
            replace(work, experiment=replace(work.experiment, device=device)).do(list(group), failed)
    else:
        work.do(list(group), failed)
    return group, failed


def _note(failed: Failed, path: str, error: VideoError) -> None:
    log.warning("%s: %s", type(error).__name__, error)
    failed[path] = type(error).__name__, str(error)


def _todo(work: _Work, group: list[Job], failed_before: set[str]) -> list[Job]:
    """Return what is to do of a group: all of it, but where only those are missing that failed before."""
    missing = [job for job in group if not work.is_done(job)]
    return missing if all(job.path in failed_before for job in missing) else group


def _remove_temporary(out: Path) -> None:
    """Delete what killed processes left under temporary names; none writes now, for the folder is locked."""
    for folder in (out, out / WINDOWS, out / FILMS):
        for path in folder.glob(".*.tmp"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink()


def _check_is_same(out: Path, facts: dict, video_ids: list[str]) -> None:
    """Refuse a folder with predictions of other weights or windows, of videos not asked for, or with others' tables."""
    another = "use another --out"
    if not is_predictions(out) and not videos_in(out):
        for name in filter(None, (*COLUMNS, *FORMATS.values())):  # such as videos.csv of a run folder
            check_overwrite(out / name, "predict")
    if is_predictions(out):
        before = read_facts(out)
        # what changes tables only is left out
        same = [name for name in {**facts, "look_above": None} if name != "thresholds_stored"]
        if wrong := differences({name: before.get(name) for name in same}, {name: facts.get(name) for name in same}):
            raise StageError(f"{out} holds other predictions: {wrong[0]}; {another}")
    if others := sorted(set(videos_in(out)) - set(video_ids)):
        names = ", ".join(others[:SHOWN]) + ", ..." * (len(others) > SHOWN)
        raise StageError(f"{out} holds predictions of videos that are not asked for now: {names}; {another}")


def _check_no_source_is_a_film(out: Path, sources: list[Source]) -> None:
    folder = (out / FILMS).resolve()
    if theirs := [source.path for source in sources if folder in Path(source.path).resolve().parents]:
        raise StageError(f"{theirs[0]} would be replaced by its film; use another --out")


def _own_facts(own: OwnBoxes | None, sources: list[Source]) -> dict:
    """Return what the record says of boxes of one's own; StageError where none is of these videos."""
    if own is None:
        return {}
    if not own.rows.keys() & {source.video_id for source in sources}:
        raise StageError(f"{own.path}: no line is of these videos, whose ids are such as {sources[0].video_id}")
    return {"own_boxes": own.sha256}


def _say_failed(out: Path, failed: Failed) -> str:
    lines = [f"failed: {path}: {reason}: {detail}" for path, (reason, detail) in sorted(failed.items())[:SHOWN]]
    return "\n".join([*lines, f"all of them are in {out / 'failed.csv'}; the same command tries them again"])
