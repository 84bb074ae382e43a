"""Rehearse a run: the stages themselves on a few videos in spare run folders, with a clock beside them."""

import io
import logging
import math
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from pipeline.config import CODECS, FUSIONS, Config, Policy
from pipeline.data.annotations import Annotations
from pipeline.data.miniature import generate
from pipeline.data.plain_csv import labels_csv
from pipeline.data.video.sandbox import Prober
from pipeline.errors import StageError
from pipeline.preflight.counts import Counts, count, spread
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.plan_rows import probe_row
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from pipeline.workers.peak_memory import RSS_UNIT, peak_bytes, reset_peak

GROWTH = 4  # a round has at most that many times the videos of the one before
LONG = 60.0  # seconds; a first round that takes longer does so by its rows, not by what starting takes
STILL = 1e-12  # learning rate: steps on a few clips could drive the weights anywhere, so they stay as they are
TRIED = 8  # videos of a split that are tried, to find one that can be read


@dataclass(frozen=True)
class Round:
    """The stages, run on some videos in a spare run folder.

    Attributes:
        config: of the spare run: annotations of its own, one epoch, small units.
        run: the spare run folder.
        seconds, memory, written: by stage: its time, about the peak bytes of its largest process, and the files that
            it wrote, relative to the run folder. What `crops` writes in the other codec is under that codec's name.
    """

    config: Config
    run: Path
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    written: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def counts(self) -> Counts:
        """Counts of the spare run, by its plan."""
        return count(self.config, self.run)

    def measure(self, stage: str, work: Callable[[], object]) -> None:
        """Do the work of a stage and note what it took and wrote."""
        before, started = self._files(), time.perf_counter()
        reset_peak()
        work()
        self.seconds[stage] = time.perf_counter() - started
        workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_UNIT  # of those that have ended
        self.memory[stage] = max(peak_bytes(), workers)
        self.written[stage] = sorted(self._files() - before)

    def _files(self) -> set[Path]:
        """All files but the lock of the run folder, which belongs to no stage."""
        found = {path.relative_to(self.run) for path in self.run.rglob("*") if path.is_file()}
        return found - {Path(".lock")}


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress and the warnings of stages, which are about videos that nobody asked to be done."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


@quiet()
def rehearse(config: Config, counts: Counts, base: Path, folder: Path, seconds: float) -> tuple[list[Round], float]:
    """Run all stages on one video of each split, then all but the trainings on more and more videos.

    In the first round every stage starts and ends workers of its own, as in the real run. The second round has the same
    videos and finds workers that are there. Where the first one takes long, it is the only one.

    Args:
        base: folder of Base in the real run. Where it is trained, boxes are Base's; else those of untrained weights.
        folder: an empty one.
        seconds: for all rounds after the first, about.
    Returns:
        the rounds, and time.time() when this function was entered: until then its process was starting.
    Raises:
        StageError: as the stages would, or because none of the videos that were tried can be read.
    """
    entered, rounds = time.time(), []

    def run_round(number: int) -> float:
        started, own = time.monotonic(), folder / str(len(rounds))
        rounds.append(Round(spare_config(config, counts, readable, number, own / "data"), own / "run"))
        _run_stages(rounds[-1], base, counts.annotations is None, rounds[0] if len(rounds) > 1 else None)
        return time.monotonic() - started

    readable = {split: first_readable(config, ids) for split, ids in counts.video_ids.items() if ids}
    number, total = len({part.split for part in counts.parts}), counts.videos("train", "test")
    if run_round(number) < LONG + seconds:
        _start_workers(config.workers)
        deadline = time.monotonic() + seconds
        taken = run_round(number)
        while number < total and (growth := _growth(len(rounds), taken, deadline - time.monotonic())) >= 2:
            number = min(int(number * growth), total)
            taken = run_round(number)
    _cut_in_other_codec(rounds[-1])
    _end_workers()
    return rounds, entered


def _growth(num_rounds: int, taken: float, left: float) -> float:
    """How many times as many videos the next round may have; below 2 there is none.

    There is one with GROWTH times as many videos in any case, if it takes less than LONG.
    """
    if num_rounds == 2 and GROWTH * taken < LONG:
        return GROWTH
    return min(GROWTH, left / taken)


def crops_policy(config: Config) -> Policy:
    """The boxes to rehearse `crops` with: the default, entropy, where stage 1 stores its maps."""
    objectives = config.saliency.objectives
    return "entropy" if "entropy" in objectives else objectives[0] if objectives else "random"


def _run_stages(spare: Round, base: Path, generating: bool, first: Round | None) -> None:
    """Run the stages of a round.

    Args:
        generating: whether the real `prepare` will generate the miniature.
        first: the first round, if this is a later one, which takes its networks and keeps its workers.
    """
    config, run, policy = spare.config, spare.run, crops_policy(spare.config)

    def measure(stage: str, work: Callable[[], object]) -> None:
        spare.measure(stage, work if first else lambda: (work(), _end_workers()))

    if config.data.format == "miniature" and not generating:
        generate.generate(config.data, config.workers)
    measure("prepare", lambda: prepare.run(config, run))
    if first:
        shutil.copytree(first.run / "models", run / "models")
    else:
        measure("train-base", lambda: train_base.run(config, run))
        if (base / "base.json").exists():
            for name in ("weights.pt", "base.json"):
                shutil.copyfile(base / name, base_folder(open_folder(run, config), config) / name)
    measure("saliency", lambda: saliency.run(config, run, use_labels=True))
    measure("crops", lambda: crops.run(config, run, (policy,)))
    splits = {part.split for part in spare.counts.parts}
    if "train" in splits and not first:
        measure("train-fusion", lambda: [train_fusion.run(config, run, fusion, policy) for fusion in FUSIONS])
    if "test" in splits:
        measure("evaluate", lambda: evaluate.run(config, run, use_labels=True))


def _cut_in_other_codec(spare: Round) -> None:
    """Run `crops` once more, for what it takes on the disk in the codec that the config does not ask for."""
    (other,) = set(CODECS) - {spare.config.crops.codec}
    config = replace(spare.config, crops=replace(spare.config.crops, codec=other))
    spare.measure(other, lambda: crops.run(config, spare.run, (crops_policy(config),)))


def spare_config(config: Config, counts: Counts, readable: dict[str, str], number: int, folder: Path) -> Config:
    """The config of a spare run of so many videos, in the proportion of the splits, at least one of each.

    Writes its annotations into `folder`; a miniature will be generated there.

    Args:
        readable: by split, a video that can be read.
    """
    share = number / counts.videos("train", "test")
    numbers = {part.split: max(1, round(share * counts.videos(part.split))) for part in counts.parts}
    data = replace(config.data, eval_ids=(), classes=str(folder / "classes.txt"), max_skipped=1.0)
    if config.data.format == "miniature":
        files = tuple(str(folder / f"{split}.csv") for split in ("train", "test"))
        sizes = {"train_videos": numbers.get("train", 0), "eval_videos": numbers.get("test", 0)}
        data = replace(data, annotations=files, videos=str(folder), **sizes)
    else:
        ids = set(readable.values()) | set(spread(counts.missing, round(share * len(counts.missing))))
        for split, count in numbers.items():
            ids |= set(spread([one for one in counts.video_ids[split] if one != readable[split]], count - 1))
        _write_annotations(counts.annotations, ids, folder)
        data = replace(data, format="plain", annotations=(str(folder / "labels.csv"),), missing_videos="skip")
    per_unit = min(config.clips.videos_per_unit, math.ceil(max(numbers.values()) / config.workers))
    return replace(
        config,
        data=data,
        clips=replace(config.clips, videos_per_unit=per_unit),
        base=replace(config.base, epochs=min(config.base.epochs, 1), learning_rate=STILL),
        fusion=replace(config.fusion, epochs=1, learning_rate=STILL),
    )


def _write_annotations(annotations: Annotations, ids: set[str], folder: Path) -> None:
    """Write labels.csv of these videos, and classes.txt."""
    videos, actions = (table[table.video_id.isin(ids)] for table in (annotations.videos, annotations.actions))
    folder.mkdir(parents=True)
    (folder / "labels.csv").write_bytes(labels_csv(replace(annotations, videos=videos, actions=actions)))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in annotations.classes), encoding="utf-8")


def first_readable(config: Config, ids: list[str]) -> str:
    """The first of some videos of a split that can be read."""
    tried = spread(ids, TRIED)
    with Prober(config.data.video_seconds, round(config.data.video_memory * 2**30)) as prober:
        for video_id in tried:
            if isinstance(probe_row(config, prober, video_id, None), dict):
                return video_id
    raise StageError(f"none of the sampled videos can be read: {', '.join(tried)}")


def _start_workers(number: int) -> None:
    """Start worker processes that have imported the stages; each takes a call before it has imported anything."""
    Parallel(n_jobs=number)(delayed(_wait)() for _ in range(2 * number))


def _wait() -> None:
    time.sleep(0.2)


def _end_workers() -> None:
    get_reusable_executor().shutdown(wait=True)
