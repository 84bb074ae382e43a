"""plan: what every stage will take on this machine, scaled up from a timed sample of the user's own videos."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from cache.folder_checks import free_space
from pipeline.config import Config, Policy
from pipeline.errors import StageError
from pipeline.preflight.counts import Counts, count, with_miniature
from pipeline.preflight.rehearsal import end_workers, rehearse
from pipeline.preflight.sample_clips import Sample, SampledVideo, measure
from pipeline.preflight.sample_prepare import measure_prepare
from pipeline.preflight.sample_stores import measure_stores
from pipeline.preflight.sample_training import TrainingCost, measure_training
from pipeline.preflight.stage_costs import Measured, StageForecast, Startup
from pipeline.run.folder import Workspace
from pipeline.workers.device import pick_device
from pipeline.workers.peak_memory import run_measured
from pipeline.workers.shared_paths import here

SAMPLED_MINIATURE = 80  # videos of each split that are made where there are none yet


@dataclass(frozen=True)
class Forecast:
    """The stages of a run, and what the numbers rest on.

    Attributes:
        free_bytes, free_inodes: of the disk (None where its file system counts no inodes). held_bytes, held_files:
            what the run folder holds already.
        notes: in sentences: what was sampled, and what could only be guessed.
    """

    stages: list[StageForecast]
    counts: Counts
    free_bytes: int
    free_inodes: int | None
    held_bytes: int
    held_files: int
    notes: list[str]

    def total(self, codec: str) -> int:
        return sum(stage.bytes[codec] for stage in self.stages)

    @property
    def files(self) -> int:
        return sum(stage.files for stage in self.stages)

    def fits(self, codec: str) -> bool:
        """Whether the disk has room for what is still to be written."""
        inodes = self.free_inodes is None or self.files - self.held_files <= self.free_inodes
        return inodes and self.total(codec) - self.held_bytes <= self.free_bytes


def forecast(
    config: Config, run_dir: Path, seconds: float = 60.0, policies: tuple[Policy, ...] = ("entropy",)
) -> Forecast:
    """Sample for about so many seconds, and scale up. Writes nothing into the run folder.

    Args:
        policies: boxes that `crops` will be asked for.
    Raises:
        AnnotationError, StageError: as `prepare` would.
    """
    with tempfile.TemporaryDirectory(prefix="plan-") as spare:
        spare, made = Path(spare), 0.0
        if config.data.format == "miniature" and not Path(config.data.videos).is_dir():
            started = time.monotonic()
            with_miniature(config, spare / "first", 1)  # starts the workers
            first = time.monotonic()
            config_here, counts = with_miniature(config, spare / "data", SAMPLED_MINIATURE)
            each = (time.monotonic() - first) / (2 * SAMPLED_MINIATURE)
            made = first - started + each * (counts.videos("train") + counts.videos("test") - 2)
        else:
            config_here, counts = config, count(config, run_dir)
        base = Workspace(run_dir, config).base_folder / "weights.pt"
        weights = base if base.exists() else None
        starts = {
            "prepare": _startup("pipeline.cli.main", "pipeline.stages.prepare", "cache.upkeep.sweep"),
            "stage": _startup("pipeline.stages.saliency", "pipeline.training.cached_volumes"),
            "training": _startup("pipeline.stages.train_fusion", "torch._dynamo"),  # the optimiser loads that
        }
        samples, pool = _sample(config_here, counts, 0.3 * seconds, weights)
        videos = [video for sample in samples for video in sample.videos]
        if not videos:
            raise StageError(f"none of the sampled videos can be read: {', '.join(samples[0].failed[:5])}")
        splits = {video.part.split for video in videos}
        own = {split: [video for video in videos if video.part.split == split] for split in splits}
        stores = {split: measure_stores(config, own[split], spare / split) for split in splits}
        numbers = {split: counts.videos(split) for split in counts.candidates}
        rows_of = [video.row for video in videos]
        prepared = _fresh(measure_prepare, config_here, run_dir, rows_of, numbers, counts.num_missing)
        costs = _trainings(config, counts, videos, 0.4 * seconds)
        row = float(np.mean([sample.row_seconds for sample in samples if sample.row_seconds] or [0.0]))
        rehearsed = rehearse(config_here, counts, videos, row, weights, policies, spare / "rehearsal", 0.3 * seconds)
        measured = Measured(config, counts, policies, samples, stores, costs, rehearsed, prepared, starts, pool, made)
        return Forecast(measured.stages(), counts, *free_space(run_dir), *_held(run_dir), _notes(measured, weights))


def _sample(config: Config, counts: Counts, seconds: float, weights: Path | None) -> tuple[list[Sample], float]:
    """One sample for each process that stage 1 will have, all at work at a time; and what starting them took."""
    workers = config.workers if pick_device(config).type == "cpu" else 1
    workers = max(1, min(workers, max(map(len, counts.candidates.values()))))
    jobs = []
    for number in range(workers):
        columns = [candidates[number::workers] for candidates in counts.candidates.values()]
        longest = max(map(len, columns))
        jobs.append([column[row] for row in range(longest) for column in columns if row < len(column)])
    end_workers()  # those that made videos: starting is a part of what is measured
    started = time.time()
    calls = (delayed(here(measure))(config, own, seconds, weights, counts.num_classes) for own in jobs)
    samples = Parallel(n_jobs=workers)(calls)
    return samples, max(sample.entered for sample in samples) - started


def _trainings(config: Config, counts: Counts, videos: list[SampledVideo], seconds: float) -> dict[str, TrainingCost]:
    """Costs of train-base, late fusion and temporal concatenation; none where there is nothing to train on."""
    if not counts.videos("train"):
        return {}
    clips = np.concatenate([video.clips for video in videos])[:64]
    trainings = {"base": (config.base, clips)} if config.base.epochs else {}
    trainings |= {"late": (config.fusion, clips), "concat": (config.fusion, np.concatenate([clips, clips], 1))}
    found = {}
    for name, (training, volumes) in trainings.items():
        batch = min(training.batch_size, counts.videos("train"))
        own = seconds / len(trainings)
        job = config, replace(training, batch_size=batch), volumes[:batch], counts.num_classes, own
        found[name] = _fresh(measure_training, *job)
    return found


def _fresh(measure: Callable, *arguments):
    """Its answer in a process that has done nothing else, as those of the stages are."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(here(measure), *arguments).result()


def _startup(*modules: str) -> Startup:
    code = (
        f"import {', '.join(modules)}, pipeline.workers.peak_memory; print(pipeline.workers.peak_memory.held_bytes())"
    )
    started = time.monotonic()
    held, peak, _ = run_measured(["-c", code], Path(__file__).parents[2])
    return Startup(time.monotonic() - started, int(held), max(peak - int(held), 0))


def _held(run_dir: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in run_dir.rglob("*") if path.is_file()] if run_dir.is_dir() else []
    return sum(sizes), len(sizes)


def _notes(measured: Measured, weights: Path | None) -> list[str]:
    videos = measured.videos
    looked = sum(len(video.rows) for video in videos if video.logits is not None)
    cut = sum(len(video.rows) for video in videos)
    notes = [f"sampled: {len(videos)} videos decoded, {looked} clips looked at, {cut} clips cut and encoded"]
    failed = sum(len(sample.failed) for sample in measured.samples)
    notes += [f"{failed} of the sampled videos cannot be read; prepare will leave such videos out"] * bool(failed)
    notes += ["the sample's boxes are those of a network with random weights, for Base is not trained yet"] * (
        not weights
    )
    for name, cost in measured.trainings.items():
        notes += [f"{name}: a whole batch was too much for the sample; its time and memory are extrapolated"] * (
            not cost.exact
        )
    return notes
