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

from joblib.externals.loky import get_reusable_executor

from pipeline.config import CODECS, FUSIONS, Config, Policy
from pipeline.data.annotations import Annotations
from pipeline.data.miniature import generate
from pipeline.data.plain_csv import sources_csv
from pipeline.data.segments import Source
from pipeline.data.video.sandbox import Prober
from pipeline.errors import StageError
from pipeline.preflight.counts import Counts, count, spread
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.plan_rows import probe_row
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from pipeline.workers.peak_memory import RSS_UNIT, peak_bytes, reset_peak

GROWTH = 4  # the second round has that many times the videos of the first
LONG = 120.0  # seconds; a first round that takes longer does so by its videos, not by what starting takes
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
        """Do the work of a stage, end its workers, and note what it took and wrote."""
        before, started = self._files(), time.perf_counter()
        reset_peak()
        work()
        get_reusable_executor().shutdown(wait=True)  # the next stage starts workers of its own
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
    """Hide the progress and the warnings of stages, which would be about the rehearsal."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


@quiet()
def rehearse(config: Config, counts: Counts, base: Path, folder: Path, seconds: float) -> tuple[list[Round], float]:
    """Run all stages on one video of each split, then all but the trainings on more videos.

    Every stage starts and ends its own workers, as in the real run; what that takes is in every round, so that the
    difference between rounds is what the videos take. Where the first round takes long, it is the only one.

    Args:
        base: folder of Base in the real run. Where it is trained, boxes are Base's; else those of untrained weights.
        folder: an empty one.
        seconds: that the videos of the last round may take, about.
    Returns:
        the rounds, and time.time() when this function was entered: until then its process was starting.
    Raises:
        StageError: as the stages would, or because none of the videos that were tried can be read.
    """
    entered, rounds, total = time.time(), [], counts.videos("train", "test")
    found = counts.annotations.source if counts.annotations else Source
    readable = {split: first_readable(config, ids, found) for split, ids in counts.video_ids.items() if ids}

    def run_round(number: int) -> float:
        own, first = folder / str(len(rounds)), rounds[0] if rounds else None
        rounds.append(Round(spare_config(config, counts, readable, number, own / "data"), own / "run"))
        _run_stages(rounds[-1], base, counts.annotations is None, first)
        return sum(rounds[-1].seconds.values())

    few = len({part.split for part in counts.parts})
    some = min(GROWTH * few, total)
    if run_round(few) < LONG and some > few:
        run_round(some)
        longer = sum(taken - rounds[0].seconds[stage] for stage, taken in rounds[1].seconds.items())
        each = max(longer / (some - few), seconds / (GROWTH**2 * some))  # seconds of a video; not all noise
        number = min(int(seconds / each), total)
        if number >= 2 * some:
            run_round(number)
    _cut_in_other_codec(rounds[-1])
    return rounds, entered


def crops_policy(config: Config) -> Policy:
    """The boxes to rehearse `crops` with: the default, entropy, where stage 1 stores its maps."""
    objectives = config.saliency.objectives
    return "entropy" if "entropy" in objectives else objectives[0] if objectives else "random"


def _run_stages(spare: Round, base: Path, generating: bool, first: Round | None) -> None:
    """Run the stages of a round.

    Args:
        generating: whether the real `prepare` will generate the miniature.
        first: the first round, if this is a later one, which takes its networks.
    """
    config, run, policy, measure = spare.config, spare.run, crops_policy(spare.config), spare.measure
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
    splits = {"train_splits": ("train",), "eval_splits": ("test",), "eval_ids": ()}
    data = replace(config.data, **splits, classes=str(folder / "classes.txt"), max_skipped=1.0)
    data = replace(data, max_past_end=1.0)  # of all videos it may be small
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
        base=replace(config.base, epochs=min(config.base.epochs, 1), warmup_epochs=0, learning_rate=STILL),
        fusion=replace(config.fusion, epochs=1, warmup_epochs=0, learning_rate=STILL),
    )


def _write_annotations(annotations: Annotations, ids: set[str], folder: Path) -> None:
    """Write labels.csv of these videos, and classes.txt."""
    videos, actions = (table[table.video_id.isin(ids)] for table in (annotations.videos, annotations.actions))
    folder.mkdir(parents=True)
    (folder / "labels.csv").write_bytes(sources_csv(replace(annotations, videos=videos, actions=actions)))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in annotations.classes), encoding="utf-8")


def first_readable(config: Config, ids: list[str], sources: Callable[[str], Source] = Source) -> str:
    """The first of some videos of a split that can be read."""
    tried = spread(ids, TRIED)
    with Prober(config.data.video_seconds, round(config.data.video_memory * 2**30)) as prober:
        for video_id in tried:
            if isinstance(probe_row(config, prober, sources(video_id), None), dict):
                return video_id
    raise StageError(f"none of the sampled videos can be read: {', '.join(tried)}")
