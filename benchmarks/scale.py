"""Work out many workers on large data sets from what a unit and a row cost here, and from what is assumed of a site.

A unit is taken to need as many operations whatever the number of its rows and of the units beside it.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.row_costs import FRAMES, RowCost
from benchmarks.unit_costs import Costs


class Work(NamedTuple):
    """One stage on one kind of worker, per unit.

    Attributes:
        seconds: of one worker.
        operations: on metadata.
        num_bytes: read and written.
        at_start: operations at the start of a worker, per unit that is done already.
    """

    name: str
    seconds: float
    operations: float
    num_bytes: float
    at_start: float


class DataSet(NamedTuple):
    """Videos, and rows: a clip or an augmentation each."""

    name: str
    videos: float
    rows: float


class Load(NamedTuple):
    """What workers ask of the shared file system, as a share of the operations and bytes it has a second; 1 is all."""

    metadata: float
    num_bytes: float

    @property
    def first(self) -> str:
        """What the file system has too little of; where it is both, what it has least of."""
        worst = "metadata" if self.metadata > self.num_bytes else "bytes"
        return worst if max(self) > 1 else "nothing"


def _assumed(value: float, text: str):
    """A field of `Site` that is also an option of the command, with this help."""
    return field(default=value, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Site:
    """The storage, the machines and the bytes of real data, all assumed; and the recipe."""

    metadata_rate: float = _assumed(5e3, "operations on metadata a second that the shared file system answers")
    bandwidth: float = _assumed(1e9, "bytes a second of the shared file system")
    gpu_flops: float = _assumed(20e12, "FLOP a second that a GPU sustains in this network")
    worker_memory: float = _assumed(4e9, "bytes that a worker may take for the plan")
    video_bytes: float = _assumed(5.6e6, "bytes of a source video (Charades in original size: 55 GB)")
    map_bytes: float = _assumed(98e3, "bytes of a stored map (of real videos, see README)")
    frame_bytes: float = _assumed(13.4e3, "bytes of a stored frame (likewise)")
    rows_per_video: float
    videos_per_unit: int

    def works(self, costs: Costs, row: RowCost) -> list[Work]:
        """Stage 1, which reads videos and writes maps, on GPUs and on cores; stage 2, which writes frames, on cores."""
        rows, videos = self.rows_per_video * self.videos_per_unit, self.videos_per_unit * self.video_bytes
        maps, frames = videos + rows * self.map_bytes, videos + rows * 2 * FRAMES * self.frame_bytes
        gpu_seconds = row.saliency_gflop * 1e9 / self.gpu_flops
        one, two = costs.saliency, costs.crops
        return [
            Work("saliency, a GPU each", rows * gpu_seconds, one.operations, maps, one.at_start),
            Work("saliency, a core each", rows * row.saliency_seconds, one.operations, maps, one.at_start),
            Work("crops, a core each", rows * row.crops_seconds, two.operations, frames, two.at_start),
        ]

    def data_sets(self, charades_videos: int, kinetics_videos: int, clips: int) -> list[DataSet]:
        """The data sets of the page, each with the recipe's rows for every video."""
        by_videos = [("Charades", charades_videos), ("Kinetics-700", kinetics_videos)]
        found = [DataSet(name, videos, videos * self.rows_per_video) for name, videos in by_videos]
        return [*found, DataSet(f"{clips / 1e6:g} million clips", clips / self.rows_per_video, clips)]

    def units(self, data: DataSet) -> int:
        """Units of a data set."""
        return math.ceil(data.videos / self.videos_per_unit)

    def load(self, work: Work, workers: int) -> Load:
        """What so many workers ask for that never wait."""
        units_a_second = workers / work.seconds
        operations, num_bytes = units_a_second * work.operations, units_a_second * work.num_bytes
        return Load(operations / self.metadata_rate, num_bytes / self.bandwidth)

    def hours(self, work: Work, data: DataSet, workers: int) -> float:
        """Hours until all units are done: the longest of all computing, all operations and all bytes."""
        return self.units(data) * work.seconds / workers / 3600 * max(1, *self.load(work, workers))

    def seconds_to_start(self, work: Work, data: DataSet, workers: int) -> float:
        """Seconds until all workers have seen which units are done, if they start near the end of the work."""
        return workers * work.at_start * self.units(data) / self.metadata_rate

    def plan_rows_a_worker(self, costs: Costs) -> int:
        """Rows of the plan that a worker can hold."""
        return int(self.worker_memory / costs.plan_memory)
