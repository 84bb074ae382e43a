"""plan: what every stage will take on this machine, scaled up from a rehearsal on a few of the user's own videos."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cache.folder_checks import free_space
from pipeline.config import FUSIONS, Config
from pipeline.preflight.counts import Counts, count
from pipeline.preflight.rehearsal import Round, rehearse
from pipeline.preflight.stage_costs import Measured, StageEstimate
from pipeline.preflight.training_steps import TrainingCost, time_base, time_fusion
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.workers.engines import in_new_process

ACCURACY = (
    "accuracy: bytes and files within a tenth, times within a quarter on a machine that does nothing else; "
    "memory is a rough figure"
)


@dataclass(frozen=True)
class Estimate:
    """The stages of a run, and what the numbers rest on.

    Attributes:
        free_bytes, free_inodes: of the disk; inodes are None where its file system counts none.
        held_bytes, held_files: what the run folder holds already.
        notes: in sentences: what was rehearsed, how accurate it is, what could only be guessed.
    """

    stages: list[StageEstimate]
    counts: Counts
    free_bytes: int
    free_inodes: int | None
    held_bytes: int
    held_files: int
    notes: list[str]

    def total(self, codec: str) -> int:
        """Bytes of all stages."""
        return sum(stage.bytes[codec] for stage in self.stages)

    @property
    def files(self) -> int:
        """Files of all stages."""
        return sum(stage.files for stage in self.stages)

    def fits(self, codec: str) -> bool:
        """Whether the disk has room for what is still to be written."""
        inodes = self.free_inodes is None or self.files - self.held_files <= self.free_inodes
        return inodes and self.total(codec) - self.held_bytes <= self.free_bytes


def estimate(config: Config, run_dir: Path, seconds: float = 60.0) -> Estimate:
    """Rehearse all stages for about so many seconds, and scale up. Writes nothing into the run folder.

    A few videos go through all stages first, however long that takes.

    Raises:
        AnnotationError, StageError: as the stages would.
    """
    counts = count(config, run_dir)
    base = base_folder(open_folder(run_dir, config), config)
    with tempfile.TemporaryDirectory(prefix="plan-") as spare:
        started = time.time()
        rounds, entered = in_new_process(rehearse, config, counts, base, Path(spare), 0.5 * seconds)
        trainings = _time_trainings(config, counts, rounds[-1], 0.5 * seconds)
        stages = Measured(config, counts, rounds, trainings, entered - started).stages()
        notes = _notes(rounds, trainings, (base / "base.json").exists())
    return Estimate(stages, counts, *free_space(run_dir), *_held(run_dir), notes)


def _time_trainings(config: Config, counts: Counts, spare: Round, seconds: float) -> dict[str, TrainingCost]:
    """Costs of train-base and of both fusions, each in a process of its own; none where no video is to train on."""
    videos = counts.videos("train")
    if not videos:
        return {}
    each, batch = seconds / (1 + len(FUSIONS)), min(config.fusion.batch_size, videos)
    found = {fusion: in_new_process(time_fusion, spare.config, spare.run, fusion, batch, each) for fusion in FUSIONS}
    if config.base.epochs:
        batch = min(config.base.batch_size, videos)
        found["base"] = in_new_process(time_base, spare.config, spare.run, batch, each)
    return found


def _held(run_dir: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in run_dir.rglob("*") if path.is_file()] if run_dir.is_dir() else []
    return sum(sizes), len(sizes)


def _notes(rounds: list[Round], trainings: dict[str, TrainingCost], trained: bool) -> list[str]:
    last = rounds[-1]
    videos, rows = last.counts.videos("train", "test"), last.counts.rows("train", "test")
    notes = [f"rehearsed in {len(rounds)} rounds, the last one with {videos} videos in {rows} rows", ACCURACY]
    if not trained:
        notes.append("the boxes of the rehearsal are those of untrained weights, for Base is not trained yet")
    for name, cost in trainings.items():
        if not cost.is_exact:
            notes.append(f"{name}: time or memory did not last for a whole batch; its figures are extrapolated")
    return notes
