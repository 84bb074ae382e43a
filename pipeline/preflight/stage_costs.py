"""Scale up what the rehearsal and the training steps took to all videos: rows, files, bytes, seconds, memory."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

from cache.stores.volume_store import unit_bytes
from pipeline.box_settings import num_boxes
from pipeline.config import CODECS, FUSIONS, Config, Training
from pipeline.preflight.counts import Counts, busiest_worker_rows
from pipeline.preflight.rehearsal import Round
from pipeline.preflight.training_steps import TrainingCost
from pipeline.workers.device import pick_device

PLANNED_ROW = 2000  # bytes of memory that a row takes while prepare makes the plan
PLAN_VIDEO, PLAN_ROW = 95, 4  # bytes that one more video and one more row add to the plan's Parquet
COPIES = 4  # of a unit's encoded frames that crops holds while it writes them


@dataclass(frozen=True)
class StageEstimate:
    """What one stage will take.

    Attributes:
        rows: planned rows; for prepare videos, for trainings clips that are seen.
        files, bytes: on the disk when it has ended; bytes by codec.
        seconds: on this machine.
        memory: bytes of its largest process at its peak.
        processes: that work at a time.
    """

    stage: str
    rows: int
    files: int
    bytes: dict[str, int]
    seconds: float
    memory: int
    processes: int


@dataclass(frozen=True)
class Measured:
    """Everything that was measured, and the stages that follow from it.

    Attributes:
        config, counts: of the real run.
        rounds: of the rehearsal; the last one has the most videos.
        trainings: by fusion, and "base"; empty where there is nothing to train on.
        start_seconds: until a process has imported the stages.
    """

    config: Config
    counts: Counts
    rounds: list[Round]
    trainings: dict[str, TrainingCost]
    start_seconds: float

    def stages(self) -> list[StageEstimate]:
        """All stages in their order."""
        stages = (self._prepare, self._train_base, self._saliency, self._crops, self._train_fusion, self._evaluate)
        return [stage() for stage in stages]

    def _prepare(self) -> StageEstimate:
        videos, workers = self.counts.videos("train", "test"), self.config.workers
        size, files = self._scaled(self.rounds[-1].written["prepare"])
        seconds = self._seconds("prepare", lambda counts: math.ceil(counts.videos("train", "test") / workers))
        memory = self.rounds[0].memory["prepare"] + PLANNED_ROW * self.counts.rows("train", "test")
        return StageEstimate("prepare", videos, files, _by_codec(size), seconds, memory, workers)

    def _train_base(self) -> StageEstimate:
        costs = [self.trainings["base"]] if "base" in self.trainings else []
        return self._training("train-base", self.config.base, costs)

    def _saliency(self) -> StageEstimate:
        size, files = self._scaled(self.rounds[-1].written["saliency"])
        workers = self.config.workers if pick_device(self.config.device).type == "cpu" else 1
        row_memory = 4 * self.config.clips.input_side**2 * len(self.config.saliency.objectives)
        return self._by_units("saliency", files, _by_codec(size), workers, row_memory)

    def _crops(self) -> StageEstimate:
        (other,) = set(CODECS) - {self.config.crops.codec}
        size, files = self._scaled(self.rounds[-1].written["crops"])
        sizes = {self.config.crops.codec: size, other: self._scaled(self.rounds[-1].written[other])[0]}
        row_memory = COPIES * size // self.counts.rows("train", "test")
        return self._by_units("crops", files, sizes, self.config.workers, row_memory)

    def _train_fusion(self) -> StageEstimate:
        costs = [self.trainings[fusion] for fusion in FUSIONS if fusion in self.trainings]
        return self._training("train-fusion", self.config.fusion, costs)

    def _evaluate(self) -> StageEstimate:
        if "evaluate" not in self.rounds[-1].seconds:  # there is no evaluation video
            return StageEstimate("evaluate", 0, 0, _by_codec(0), 0.0, 0, 1)
        size, files = self._scaled(self.rounds[-1].written["evaluate"])
        rows = (1 + sum(fusion in self.trainings for fusion in FUSIONS)) * self.counts.rows("test")
        seconds = self._seconds("evaluate", lambda counts: counts.rows("test"))
        memory = max(spare.memory["evaluate"] for spare in self.rounds)
        return StageEstimate("evaluate", rows, files, _by_codec(size), seconds, memory, 1)

    def _training(self, stage: str, recipe: Training, costs: list[TrainingCost]) -> StageEstimate:
        """A training as it was rehearsed, with one epoch of a video, and all epochs of all videos on top of that."""
        first, videos = self.rounds[0], self.counts.videos("train")
        if stage not in first.seconds:  # there is no training video
            return StageEstimate(stage, 0, 0, _by_codec(0), 0.0, 0, 1)
        seconds, memory = self.start_seconds + first.seconds[stage], first.memory[stage]
        for cost in costs:
            steps = videos / min(recipe.batch_size, videos)  # the last batch of an epoch may be a part of one
            seconds += recipe.epochs * (steps * cost.step_seconds + cost.epoch_seconds)
            seconds += cost.hold_seconds * videos / self.config.workers
            memory = max(memory, cost.memory + cost.held_bytes * videos)
        written = first.written[stage]
        if recipe.epochs > 1:  # the last two checkpoints stay
            written = written + [path for path in written if path.name.startswith("checkpoint-")]
        size = _by_codec(sum((first.run / path).stat().st_size for path in written))
        return StageEstimate(stage, len(costs) * recipe.epochs * videos, len(written), size, seconds, memory, 1)

    def _by_units(self, stage: str, files: int, size: dict[str, int], workers: int, row_memory: int) -> StageEstimate:
        """A stage whose workers take a unit at a time and hold `row_memory` bytes of each of its rows."""
        seconds = self._seconds(stage, lambda counts: busiest_worker_rows(counts.parts, workers))
        larger = max(_unit_rows(self.counts) - _unit_rows(self.rounds[0].counts), 0)
        memory = self.rounds[0].memory[stage] + larger * row_memory
        rows, processes = self.counts.rows("train", "test"), min(workers, self.counts.units)
        return StageEstimate(stage, rows, files, size, seconds, memory, processes)

    def _seconds(self, stage: str, work: Callable[[Counts], float]) -> float:
        """Seconds of a stage that follow from the rounds.

        Args:
            work: what its time goes with: rows or videos of the worker that ends last.
        """
        works = [work(spare.counts) for spare in self.rounds]
        each, first = rate_of([spare.seconds[stage] for spare in self.rounds], works)
        return self.start_seconds + first + each * work(self.counts)

    def _scaled(self, written: list[Path]) -> tuple[int, int]:
        """(bytes, files) of the real run, where the last round wrote these files."""
        run, spare, real = self.rounds[-1].run, self.rounds[-1].counts, self.counts
        both = ("train", "test")
        videos, rows = real.videos(*both) / spare.videos(*both), real.rows(*both) / spare.rows(*both)
        units, parts = real.units / spare.units, len(real.parts) / len(spare.parts)
        num_bytes, files, frames = 0.0, 0.0, Counter()
        for path in written:
            size, larger, more = (run / path).stat().st_size, 1.0, 1.0  # how many times the bytes, and the files
            if path.suffix == ".h5":  # one of each unit; how much of it is padding depends on the unit's rows
                with h5py.File(run / path) as file:
                    frames[path.parts[0]] += file["data"].size
                larger, more = 0.0, units
            elif path.name.startswith("c."):  # chunks of a Zarr array, one file of each unit
                larger, more = rows, units
            elif path.stem.isdigit():  # record or lock of a unit
                larger, more = units, units
            elif path.name in ("labels.csv", "videos.csv", "skipped.csv"):
                larger = videos
            elif path.name.endswith(".scores.txt"):
                larger = real.videos("test") / spare.videos("test")
            elif len(path.parts) > 1 and path.parts[0] != "results":  # of a part of the plan
                larger, more = parts, parts
            num_bytes, files = num_bytes + larger * size, files + more
            if path.suffix == ".parquet":
                num_bytes += PLAN_VIDEO * (real.videos(*both) - spare.videos(*both)) / len(spare.parts)
                num_bytes += PLAN_ROW * (real.rows(*both) - spare.rows(*both)) / len(spare.parts)
        for product, size in frames.items():
            each, boxes = size / spare.rows(*both), num_boxes(self.config.saliency) if product == "crops" else 1
            length = boxes * self.config.clips.num_frames
            num_bytes += sum(unit_bytes(round(each * unit), unit, length) for part in real.parts for unit in part.units)
        return round(num_bytes), round(files)


def rate_of(taken: list[float], works: list[float]) -> tuple[float, float]:
    """(seconds of one piece of work, seconds of a stage on top of its work).

    Args:
        taken: seconds of a stage in each round.
        works: pieces of work in each round, the fewest first.
    """
    each = taken[-1] / works[-1]
    if works[-1] > works[0]:  # what a stage takes whatever its work is in both, and leaves the difference
        each = min(each, max(0.0, taken[-1] - taken[0]) / (works[-1] - works[0]))
    return each, max(0.0, taken[0] - each * works[0])


def _by_codec(size: int) -> dict[str, int]:
    return dict.fromkeys(CODECS, size)


def _unit_rows(counts: Counts) -> int:
    """Rows of the largest unit."""
    return max(rows for part in counts.parts for rows in part.units)
