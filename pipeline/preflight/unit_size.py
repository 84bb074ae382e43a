"""plan: how many videos a unit should have. Large ones ask the file system for less, small ones lose less to a kill."""

import math
from typing import NamedTuple

from pipeline.preflight.counts import Counts
from pipeline.preflight.stage_costs import StageEstimate
from pipeline.stages.prepare import MOST_ROWS

OPERATIONS = {"saliency": 60, "crops": 40}  # on metadata, of a unit: `make scaling`
SERVED = 5000  # operations a second, of a shared file system
BUSY = 0.5  # share of these that a run may ask for; above it workers begin to queue
NAMES = 4000  # in a folder: locks/, volumes/ and each array have one a unit of their part
LONGEST = 600  # seconds of a worker's work, which a kill loses
UNITS_A_WORKER = 4  # at least, so that none works on alone for long


class UnitSize(NamedTuple):
    """Videos a unit: a number, and what it means for a run.

    Attributes:
        seconds: of the longest unit of a stage.
        units: a worker, of the stage with most workers.
        busy: share of SERVED that the workers of a stage ask for.
        names: in the largest folder.
    """

    videos: int
    seconds: float
    units: float
    busy: float
    names: int

    def sentence(self, now: int) -> str:
        """Say it, and what the config has now where that is another number."""
        other = f", not {now}" if now != self.videos else ""
        return (
            f"clips.videos_per_unit = {self.videos} suits{other}: {self.units:.3g} units a worker, of which a kill "
            f"loses one, at most {self.seconds:.3g} s of work; the workers ask for {self.busy:.0%} of {SERVED:,} file "
            f"operations a second; at most {self.names:,} names in a folder"
        )


def best_unit_size(
    counts: Counts, stages: list[StageEstimate], tasks: int, rates: dict[str, float], now: int
) -> UnitSize:
    """Return the number of videos nearest to the one now that asks for no more than BUSY and NAMES.

    Where a unit would then take longer than LONGEST, or a worker get fewer than UNITS_A_WORKER, it is what these allow.

    Args:
        tasks: machines, each with the processes of the estimate.
        rates: rows a second of a machine by stage, in place of those measured here.
    """
    videos = counts.videos("train", "test")
    largest = max(min(part.num_videos, MOST_ROWS // part.rows_per_video) for part in counts.parts)
    of_units = [stage for stage in stages if stage.stage in OPERATIONS]
    workers = {stage.stage: tasks * stage.processes for stage in of_units}
    seconds = {}  # of a video
    for one in of_units:
        whole = one.rows / rates[one.stage] if one.stage in rates else one.seconds
        seconds[one.stage] = max(whole * one.processes / videos, 1e-9)
    asked = {name: workers[name] * OPERATIONS[name] / seconds[name] / SERVED for name in workers}  # by units of a video
    least = max(*(busy / BUSY for busy in asked.values()), largest / NAMES)
    most = min(LONGEST / max(seconds.values()), videos / UNITS_A_WORKER / max(workers.values()))
    size = max(1, min(max(now, math.ceil(least)), math.floor(most)))
    units, names = videos / size / max(workers.values()), math.ceil(largest / size)
    return UnitSize(size, size * max(seconds.values()), units, max(asked.values()) / size, names)
