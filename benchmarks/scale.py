"""Work out many workers on large data sets from what one unit costs: what saturates, how long it takes, the index.

A unit is taken to need as many operations whatever the number of its rows and of the units beside it.
"""

import math
from dataclasses import dataclass

from benchmarks.row_costs import FRAMES, RowCost
from benchmarks.unit_costs import Costs


@dataclass(frozen=True)
class Site:
    """Assumed, not measured: the storage, the machines and the bytes of real data.

    Attributes:
        metadata_rate: operations a second that the shared file system answers, to all clients together.
        bandwidth: bytes a second likewise.
        gpu_flops: FLOP a second that a GPU sustains in this network.
        worker_memory: bytes that a worker process may take for the plan.
        start_seconds: that the start of all workers may take.
        video_bytes, map_bytes, frame_bytes: of a source video, a stored map, a stored frame.
        rows_per_video, videos_per_unit: of the recipe.
    """

    metadata_rate: float
    bandwidth: float
    gpu_flops: float
    worker_memory: float
    start_seconds: float
    video_bytes: float
    map_bytes: float
    frame_bytes: float
    rows_per_video: float
    videos_per_unit: int

    @property
    def rows_per_unit(self) -> float:
        return self.rows_per_video * self.videos_per_unit


@dataclass(frozen=True)
class Work:
    """One stage on one kind of worker, per unit: seconds of one worker, operations on metadata, bytes read and written.

    Attributes:
        at_start: operations at the start of a worker, per unit that is done already.
    """

    name: str
    seconds: float
    operations: float
    num_bytes: float
    at_start: float


@dataclass(frozen=True)
class DataSet:
    """Videos, and rows: a clip or an augmentation each."""

    name: str
    videos: float
    rows: float


@dataclass(frozen=True)
class Load:
    """The share of its operations and of its bytes a second that workers ask of the shared file system; 1 is all."""

    metadata: float
    bandwidth: float

    @property
    def first(self) -> str:
        """What the file system has too little of; where it is both, what it has least of."""
        worst = max(("metadata", self.metadata), ("bytes", self.bandwidth), key=lambda pair: pair[1])
        return worst[0] if worst[1] > 1 else "nothing"


def works(costs: Costs, row: RowCost, site: Site) -> list[Work]:
    """Stage 1 on GPUs and on cores, and stage 2 on cores.

    Stage 1 reads videos and writes maps; stage 2 reads videos and writes frames of context and focused volumes.
    """
    rows, source = site.rows_per_unit, site.videos_per_unit * site.video_bytes
    maps, frames = source + rows * site.map_bytes, source + rows * 2 * FRAMES * site.frame_bytes
    gpu_seconds = rows * row.saliency_gflop * 1e9 / site.gpu_flops
    one, two = costs.saliency, costs.crops
    return [
        Work("saliency, a GPU each", gpu_seconds, one.operations, maps, one.at_start),
        Work("saliency, a core each", rows * row.saliency_seconds, one.operations, maps, one.at_start),
        Work("crops, a core each", rows * row.crops_seconds, two.operations, frames, two.at_start),
    ]


def data_sets(site: Site, charades_videos: int, kinetics_videos: int, clips: int) -> list[DataSet]:
    """The data sets of the page, each with the recipe's rows for every video."""
    by_videos = [("Charades", charades_videos), ("Kinetics-700", kinetics_videos)]
    found = [DataSet(name, videos, videos * site.rows_per_video) for name, videos in by_videos]
    return [*found, DataSet(f"{clips / 1e6:g} million clips", clips / site.rows_per_video, clips)]


def load(work: Work, workers: int, site: Site) -> Load:
    """What so many workers ask for that never wait."""
    units_a_second = workers / work.seconds
    return Load(units_a_second * work.operations / site.metadata_rate, units_a_second * work.num_bytes / site.bandwidth)


def saturating_workers(work: Work, site: Site) -> tuple[float, float]:
    """How many workers use up the operations, and how many the bytes, that the file system has a second."""
    return site.metadata_rate * work.seconds / work.operations, site.bandwidth * work.seconds / work.num_bytes


def units(data: DataSet, site: Site) -> int:
    """Units of a data set."""
    return math.ceil(data.videos / site.videos_per_unit)


def hours(work: Work, data: DataSet, workers: int, site: Site) -> float:
    """Hours until all units are done: the longest of all computing, all operations and all bytes."""
    share = load(work, workers, site)
    return units(data, site) * work.seconds / workers / 3600 * max(1, share.metadata, share.bandwidth)


def start_seconds(work: Work, data: DataSet, workers: int, site: Site) -> float:
    """Seconds until all workers have seen which units are done, if they start near the end of the work."""
    return workers * work.at_start * units(data, site) / site.metadata_rate


def plan_rows_a_worker(costs: Costs, site: Site) -> int:
    """Rows of the plan that a worker can hold."""
    return int(site.worker_memory / costs.plan_memory)
