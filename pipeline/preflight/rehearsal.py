"""The stages themselves on a few videos, in a spare run, with all workers at work: what a row costs them."""

import io
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from cache.plan import Part
from cache.plan_files import write_part
from models.backbones import build, count_out_frames
from models.checkpoint import load_weights
from pipeline.config import Config, Policy, clip_settings
from pipeline.data.miniature.truth import read_cards
from pipeline.preflight.counts import Counts, PartSize, makespan
from pipeline.preflight.sample_clips import SampledVideo
from pipeline.run.folder import Workspace
from pipeline.run.networks import load_base, write_trained
from pipeline.stages import crops, saliency
from pipeline.stages.evaluate import boxes_on_target
from pipeline.training.base_clips import BaseClips
from pipeline.training.cached_volumes import Volumes
from pipeline.workers.device import pick_device
from pipeline.workers.peak_memory import held_bytes, peak_bytes

FUSIONS = ("late", "concat")
LOADED = 64  # clips at most, to time how a training reads


@dataclass(frozen=True)
class Rate:
    """What a stage that works through units takes.

    Attributes:
        row: seconds of a worker for a row, everything included. first: seconds on top of that for the whole stage, in
            which its workers start, load what they need, and end.
        memory: peak bytes of a worker. left: those it still has after its last unit.
    """

    row: float
    first: float
    memory: int
    left: int


@dataclass(frozen=True)
class Rehearsed:
    """Seconds of a worker.

    Attributes:
        saliency, crops: of stages 1 and 2.
        hold: of a training video that train-base reads to hold it in memory; 0 where it does not.
        base_load, load: of a clip that a training reads: of train-base, and of train-fusion by fusion.
        truth: of an evaluation clip of the miniature, to compare its box with the cards; 0 for other data.
    """

    saliency: "Rate"
    crops: "Rate"
    hold: float
    base_load: float
    load: dict[str, float]
    truth: float = 0.0


def rehearse(
    config: Config,
    counts: Counts,
    videos: list[SampledVideo],
    row_seconds: float,
    weights: Path | None,
    policies: tuple[Policy, ...],
    folder: Path,
    seconds: float,
) -> Rehearsed:
    """Run stages 1 and 2 on one video of each split, twice, as the first time starts workers; then on more.

    Args:
        videos: the sampled ones.
        row_seconds: of the network, about.
        weights: of a trained Base; None for random ones.
        policies: boxes that `crops` will be asked for.
        folder: an empty one, for runs that nobody keeps.
        seconds: for all of it, about; the videos are in the proportion of the splits, at least one of each.
    """
    looking = config.workers if pick_device(config).type == "cpu" else 1
    with _quiet():
        runs = []
        one, more = (_few(counts, videos, number) for number in (0.0, seconds / _cost(videos, row_seconds)))
        for few in [one, one, more] if len(more) > len(one) else [one, one]:
            runs.append(_spare_run(config, counts, few, weights, folder / str(len(runs))))
        looks = _rate(lambda run: saliency.run(config, run, use_labels=True), runs, looking)
        cuts = _rate(lambda run: crops.run(config, run, policies), runs, config.workers)
        workspace, _ = runs[-1]
        hold, base_load = _base_reading(config, workspace)
        load = {fusion: _fusion_reading(config, workspace, fusion, policies[0]) for fusion in FUSIONS}
        truth = _truth_reading(config, workspace, policies[0])
        end_workers()
    return Rehearsed(looks, cuts, hold, base_load, load, truth)


def end_workers() -> float:
    """Seconds until the worker processes, where there are any, have ended."""
    return _timed(lambda: get_reusable_executor().shutdown(wait=True))


def _rate(stage: Callable[[Path], object], runs: list[tuple[Workspace, list[PartSize]]], workers: int) -> Rate:
    """Run a stage in the spare runs: in the first one with workers that have yet to start."""
    end_workers()
    taken = [_timed(partial(stage, workspace.path)) for workspace, _ in runs]
    rows = [makespan(parts, workers, lambda part, videos: videos * part.rows_per_video) for _, parts in runs]
    memory = Parallel(n_jobs=workers)(delayed(_memory)() for _ in range(8 * workers))
    each, first = rate_of(taken, rows)
    return Rate(each, first + end_workers(), *map(max, zip(*memory, strict=True)))


def _memory() -> tuple[int, int]:
    return peak_bytes(), held_bytes()


def rate_of(taken: list[float], rows: list[float]) -> tuple[float, float]:
    """(seconds a row, seconds on top of that with workers that have yet to start).

    Args:
        taken: seconds of a stage over few rows, with workers to start; over as many again; over more, if there are.
        rows: of the worker that ends last.
    """
    each = taken[-1] / rows[-1]
    if rows[-1] > rows[1]:  # what a stage takes whatever its rows is in both, and leaves the difference
        each = min(each, max(0.0, taken[-1] - taken[1]) / (rows[-1] - rows[1]))
    return each, max(0.0, taken[0] - each * rows[0])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the stages' progress and warnings, which are about videos that nobody asked to be done."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _cost(videos: list[SampledVideo], row_seconds: float) -> float:
    """Seconds that one video will take in both stages, about; decoding it twice and more."""
    return float(np.mean([3 * video.probe_seconds + len(video.part.rows) * row_seconds for video in videos]))


def _few(counts: Counts, videos: list[SampledVideo], number: float) -> list[SampledVideo]:
    """About so many videos, in the proportion that the splits have, at least one of each."""
    chosen = []
    for split in dict.fromkeys(video.part.split for video in videos):
        own = [video for video in videos if video.part.split == split]
        share = counts.videos(split) / max(sum(counts.videos(one) for one in ("train", "test")), 1)
        chosen += own[: max(1, int(number * share))]
    return chosen


def _spare_run(
    config: Config, counts: Counts, videos: list[SampledVideo], weights: Path | None, folder: Path
) -> tuple[Workspace, list[PartSize]]:
    """A prepared run of these videos, without labels, with a Base."""
    workspace, parts = Workspace(folder, config), []
    for number, split in enumerate(dict.fromkeys(video.part.split for video in videos)):
        own = [video.part for video in videos if video.part.split == split]
        per_unit = min(config.clips.videos_per_unit, math.ceil(len(own) / config.workers))
        parts.append(PartSize(split, len(own), len(own[0].rows), per_unit))
        rows = pd.concat([part.rows for part in own], ignore_index=True)
        name, settings = f"part-{number:03d}-{split}", clip_settings(config)
        write_part(folder, Part(name, split, rows, parts[-1].rows_per_video, per_unit, settings))
    lines = [f"{video.row['video_id']},{video.part.split},,,\n" for video in videos]
    (folder / "labels.csv").write_text("video_id,split,start,end,label\n" + "".join(lines))
    (folder / "classes.txt").write_text("".join(f"{number}\n" for number in range(counts.num_classes)))
    network = build(config.base.network, counts.num_classes)
    if weights:
        load_weights(network, weights)
    frames = count_out_frames(network, config.clips.num_frames, config.clips.input_side)
    facts = {"num_classes": counts.num_classes, "out_frames": frames}
    write_trained(workspace.base_folder / "base.json", network.state_dict(), facts)
    return workspace, parts


def _base_reading(config: Config, workspace: Workspace) -> tuple[float, float]:
    """Seconds of a worker to hold a training video in memory, and to make a clip of train-base."""
    videos = sum(part.num_videos for part in workspace.parts_of("train"))
    if not videos or not config.base.epochs:
        return 0.0, 0.0
    clips = BaseClips(workspace)  # where it holds videos, this starts the workers
    held = _timed(lambda: BaseClips(workspace)) / math.ceil(videos / config.workers)
    count = min(videos, LOADED)
    clips.load(0, [0])
    loading = _timed(lambda: clips.load(0, list(range(count)))) / count
    return held if config.base.in_memory else 0.0, loading


def _fusion_reading(config: Config, workspace: Workspace, fusion: str, policy: Policy) -> float:
    """Seconds to read a clip of a fusion, in the order of a training: at random."""
    split = workspace.parts[0].split
    volumes = Volumes(workspace, load_base(workspace), split, fusion, policy, "source")
    places = [place for rows in volumes.places().values() for place in rows]
    order = np.random.default_rng(0).permutation(len(places))[:LOADED]
    batches = [
        [places[number] for number in order[first : first + config.fusion.batch_size]]
        for first in range(0, len(order), config.fusion.batch_size)
    ]
    if not places:
        return 0.0  # none of the videos could be cut
    volumes.load(batches[0])
    return _timed(lambda: [volumes.load(batch) for batch in batches]) / len(order)


def _truth_reading(config: Config, workspace: Workspace, policy: Policy) -> float:
    """Seconds to compare an evaluation clip's box with the miniature's cards, for all models; 0 for other data."""
    rows = sum(part.num_rows for part in workspace.parts_of("test"))
    if config.data.format != "miniature" or not rows:
        return 0.0
    read_cards(workspace.videos_root)  # kept; of more videos, perhaps, than the spare run has
    return len(FUSIONS) * _timed(lambda: boxes_on_target(workspace, load_base(workspace), policy)) / rows
