"""Scale up what the rehearsal and the training steps took to all videos: rows, files, bytes, seconds, memory."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py

from cache.stores.volume_store import unit_bytes
from pipeline.config import CODECS, FUSIONS, Config, Training
from pipeline.preflight.counts import Counts, busiest_worker_rows
from pipeline.preflight.rehearsal import Round
from pipeline.preflight.training_steps import TrainingCost
from pipeline.workers.device import pick_device

PLANNED_ROW = 2000  # bytes of memory that a row takes while prepare makes the plan
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
        rounds: of the rehearsal; in the first one each stage started its workers, the last one has the most videos.
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
        seconds = self._seconds("prepare", lambda counts: math.ceil(counts.videos("train", "test") / workers))
        memory = self.rounds[0].memory["prepare"] + PLANNED_ROW * self.counts.rows("train", "test")
        more_parts = len(self.counts.parts) - len(self.rounds[-1].counts.parts)
        files = len(self.rounds[-1].written["prepare"]) + 2 * more_parts
        size = _by_codec(self._bytes_by_videos("prepare", "train", "test"))
        return StageEstimate("prepare", videos, files, size, seconds, memory, workers)

    def _train_base(self) -> StageEstimate:
        costs = [self.trainings["base"]] if "base" in self.trainings else []
        return self._training("train-base", self.config.base, costs)

    def _saliency(self) -> StageEstimate:
        size, files = self._stored(self.rounds[-1].written["saliency"])
        workers = self.config.workers if pick_device(self.config).type == "cpu" else 1
        row_memory = 4 * self.config.clips.input_side**2 * len(self.config.saliency.objectives)
        return self._by_units("saliency", files, _by_codec(size), workers, row_memory)

    def _crops(self) -> StageEstimate:
        (other,) = set(CODECS) - {self.config.crops.codec}
        last = self.rounds[-1]
        size, files = self._stored(last.written["crops"])
        sizes = {self.config.crops.codec: size, other: self._stored(last.written[other])[0]}
        row_memory = COPIES * size // max(self.counts.rows("train", "test"), 1)
        return self._by_units("crops", files, sizes, self.config.workers, row_memory)

    def _train_fusion(self) -> StageEstimate:
        costs = [self.trainings[fusion] for fusion in FUSIONS if fusion in self.trainings]
        return self._training("train-fusion", self.config.fusion, costs)

    def _evaluate(self) -> StageEstimate:
        if "evaluate" not in self.rounds[-1].seconds:  # there is no evaluation video
            return StageEstimate("evaluate", 0, 0, _by_codec(0), 0.0, 0, 1)
        models = 1 + sum(fusion in self.trainings for fusion in FUSIONS)
        seconds = self._seconds("evaluate", lambda counts: counts.rows("test"))
        memory, files = max(spare.memory["evaluate"] for spare in self.rounds), self.rounds[-1].written["evaluate"]
        size = _by_codec(self._bytes_by_videos("evaluate", "test"))
        return StageEstimate("evaluate", models * self.counts.rows("test"), len(files), size, seconds, memory, 1)

    def _training(self, stage: str, recipe: Training, costs: list[TrainingCost]) -> StageEstimate:
        """A training as it was rehearsed, with one epoch of a video, and all epochs of all videos on top of that."""
        first, videos = self.rounds[0], self.counts.videos("train")
        if stage not in first.seconds:  # there is no training video
            return StageEstimate(stage, 0, 0, _by_codec(0), 0.0, 0, 1)
        seconds, memory = self.start_seconds + first.seconds[stage], first.memory[stage]
        for cost in costs:
            steps = videos / min(recipe.batch_size, videos)  # the last one of an epoch may be a part of one
            seconds += recipe.epochs * (steps * cost.step_seconds + cost.epoch_seconds)
            seconds += cost.hold_seconds * videos / self.config.workers
            memory = max(memory, cost.memory + cost.held_bytes * videos)
        written = first.written[stage]
        if recipe.epochs > 1:  # the last two checkpoints stay
            written = written + [path for path in written if path.name.startswith("checkpoint-")]
        size = _by_codec(_sum_bytes(first.run, written))
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
        each, first = rate_of(
            [spare.seconds[stage] for spare in self.rounds], [work(spare.counts) for spare in self.rounds]
        )
        return self.start_seconds + first + each * work(self.counts)

    def _bytes_by_videos(self, stage: str, *splits: str) -> int:
        """Bytes of a stage, on the line through the first and the last round."""
        first, last = self.rounds[0], self.rounds[-1]
        size, videos = _sum_bytes(last.run, last.written[stage]), last.counts.videos(*splits)
        more = videos - first.counts.videos(*splits)
        each = (size - _sum_bytes(first.run, first.written[stage])) / more if more > 0 else size / videos
        return round(size + each * (self.counts.videos(*splits) - videos))

    def _stored(self, written: list[Path]) -> tuple[int, int]:
        """(bytes, files) of products in all parts, where these files are what the last round wrote of them."""
        spare, counts, run = self.rounds[-1].counts, self.counts, self.rounds[-1].run
        rows = counts.rows("train", "test") / spare.rows("train", "test")
        units, parts = counts.units / spare.units, len(counts.parts) / len(spare.parts)
        num_bytes, files, frames = 0.0, 0.0, Counter()
        for path in written:
            size = (run / path).stat().st_size
            if path.suffix == ".h5":  # one of each unit; how much is padded depends on the unit's size
                with h5py.File(run / path) as file:
                    frames[path.parts[0]] += file["data"].size
                files += units
            elif "c" in path.parts:  # chunks of a Zarr array, one file of each unit
                num_bytes, files = num_bytes + rows * size, files + units
            elif path.stem.isdigit():  # record or lock of a unit
                num_bytes, files = num_bytes + units * size, files + units
            else:
                num_bytes, files = num_bytes + parts * size, files + parts
        for size in frames.values():
            each, length = size / spare.rows("train", "test"), self.config.clips.num_frames
            sizes = (unit_bytes(round(each * unit), unit, length) for part in counts.parts for unit in part.units)
            num_bytes += sum(sizes)
        return round(num_bytes), round(files)


def rate_of(taken: list[float], works: list[float]) -> tuple[float, float]:
    """(seconds of one piece of work, seconds of a stage on top of its work).

    Args:
        taken: seconds of a stage in each round: with workers to start; with as much work, without; with more work.
        works: pieces of work in each round.
    """
    each = taken[-1] / works[-1]
    if works[-1] > works[0]:  # what a stage takes whatever its work is in both, and leaves the difference
        each = min(each, max(0.0, taken[-1] - taken[1]) / (works[-1] - works[1]))
    return each, max(0.0, taken[0] - each * works[0])


def _by_codec(size: int) -> dict[str, int]:
    return dict.fromkeys(CODECS, size)


def _sum_bytes(run: Path, written: list[Path]) -> int:
    return sum((run / path).stat().st_size for path in written)


def _unit_rows(counts: Counts) -> int:
    """Rows of the largest unit."""
    return max(rows for part in counts.parts for rows in part.units)
