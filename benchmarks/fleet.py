"""`python -m benchmarks.fleet`: a thousand simulated workers on one run folder of Charades' size, through kills.

The workers run the command `saliency --part I/N`, of which only the network is a stand-in, in virtual time before one
file system, see `virtual_time`. A video has one small row, for rows cost no operations on metadata.
"""

import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heapreplace
from pathlib import Path
from unittest import mock

import click
import numpy as np

from benchmarks.large_index import PER_VIDEO, planned_rows
from benchmarks.scale import Site
from benchmarks.scaling import EVALUATION, KEPT, TRAIN, WORKERS
from benchmarks.virtual_time import Cluster, Worker
from cache.plan import Part
from cache.plan_files import write_part
from cache.sealed import write_record
from pipeline.config import Config
from pipeline.config_file import load
from pipeline.config_keys import clip_settings
from pipeline.preflight.counts import Counts, PartSize
from pipeline.preflight.stage_costs import StageEstimate
from pipeline.preflight.unit_size import best_unit_size
from pipeline.run import folder, units
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.stores import Stores, open_run
from pipeline.run.unit_commits import Store, Unit, skipped_videos
from pipeline.run.units import Share
from pipeline.stages import saliency

BEFORE, BEFORE_AT_START = 1053, 25.0  # operations of a unit; of a start for a finished unit; counted first
SMALL = ("clips.input_side=8", "saliency.box_side=4", "clips.num_frames=2", "base.init=", "workers=1")
KILLED, TWINS = 0.2, 0.05  # shares of the workers
UNITS = 4  # a worker, in a replay


@dataclass(frozen=True)
class StandIn(saliency.SaliencyWork):
    """Computes nothing, in the seconds that Base would take. The entropy of a row is its number."""

    fleet: "Fleet" = field(kw_only=True)

    def do(self, unit: Unit, wait: bool = False, crashed: str = "") -> int | None:
        """As `UnitWork.do`, and count what was done."""
        rows = super().do(unit, wait, crashed)
        self.fleet.done[unit] += bool(rows)
        return rows

    def compute(self, part: Part, unit: Unit, wanted: list[Store], skipped: list[dict]) -> dict:
        """Return blank arrays, after a pause."""
        self.fleet.computed += 1
        self.fleet.cluster.pause(self.fleet.seconds)
        values = self.blank(part, unit, wanted)
        if (base := self.stores.base(part)) in values:
            values[base]["entropy"][:] = part.unit_rows(unit.number)
        return values


class Fleet:
    """Simulated workers on one run folder.

    Attributes:
        seconds: of a unit.
        units: of the plan.
        computed: how many units were begun.
        done: how often each unit was, by a worker that lived on.
        begun: when each command knew what it has to do.
    """

    def __init__(self, run_dir: Path, config: Config, seconds: float, rate: float):
        self.run_dir, self.config, self.seconds, self.cluster = run_dir, config, seconds, Cluster(rate)
        self.units, self.computed, self.done, self.begun = 0, 0, Counter(), []

    def command(self, share: Share) -> None:
        """Do a share of the units, as the command does."""
        saliency.run(self.config, self.run_dir, share=share)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve the commands of this process: the plan is parsed once, and the end of a stage reads no records."""
        parts, to_do = [], saliency.units_to_do
        with self.cluster.serving(self.run_dir):
            reading = self.cluster.count(lambda: parts.extend(open_folder(self.run_dir, self.config).parts))
        self.units = sum(part.num_units for part in parts)

        def read_plan(run_dir: Path) -> list[Part]:
            self.cluster.ask("plan", reading)
            return parts

        def units_to_do(*arguments) -> list[Unit]:
            found = to_do(*arguments)
            self.begun.append(self.cluster.now)
            return found

        stand_ins = {"SaliencyWork": partial(StandIn, fleet=self), "units_to_do": units_to_do}
        with ExitStack() as stack:
            stack.enter_context(self.cluster.serving(self.run_dir))
            stack.enter_context(mock.patch.multiple(saliency, **stand_ins, skipped_videos=lambda stores: {}))
            stack.enter_context(mock.patch.object(folder, "read_plan", read_plan))
            stack.enter_context(mock.patch.object(units, "progress", lambda items, *_: items))
            yield

    def work(self, workers: list[Worker], share: float) -> None:
        """Let the workers work until a share of the units is done, or all have ended."""
        while self.done.total() < share * self.units and any(worker.ended is None for worker in workers):
            self.cluster.pause(0.1)


@dataclass(frozen=True)
class Outcome:
    """What a simulated fleet did.

    Attributes:
        units: of the plan.
        lost: units without a record, or with other values than were computed.
        twice: units or records that were done a second time, though nobody was killed at it.
        again: units that were begun again, after a kill.
        a_unit, a_start, an_end: operations; of the command's end where all is done.
        begun: seconds until all workers, killed near the end and started again, have begun.
        waiting: share of the time of all workers.
    """

    units: int
    lost: int
    twice: int
    again: int
    a_unit: float
    a_start: float
    an_end: float
    begun: float
    waiting: float


def prepared(run_dir: Path, train: int, evaluation: int, videos_per_unit: int) -> Config:
    """Write the plan of so many videos and the record of a trained Base; return the config."""
    config = load("charades", (*SMALL, f"clips.videos_per_unit={videos_per_unit}"))
    sizes = {"theta_input_height": 8, "theta_input_width": 8}
    for number, (split, first, videos) in enumerate((("train", 0, train), ("test", train, evaluation))):
        rows = planned_rows(first, videos)[::PER_VIDEO].assign(split=split, **sizes)
        part = Part(f"part-{number:03d}-{split}", split, rows, 1, videos_per_unit, clip_settings(config))
        write_part(run_dir, part)
    record = base_folder(open_folder(run_dir, config), config) / "base.json"
    record.parent.mkdir(parents=True)
    write_record(record, {"weights": "0" * 64, "num_classes": 1, "out_frames": 1}, {})
    return config


def simulate(fleet: Fleet, workers: int, seed: int = 0) -> Outcome:
    """Do all units, in a folder as `prepared` leaves it.

    In the middle a share of the workers is killed, one after the other, and started again; a share has worked twice
    from the start, as where a scheduler thinks a job lost. Near the end all are killed, and started again.
    """
    cluster, command, rng = fleet.cluster, fleet.command, random.Random(seed)
    shares = [Share(number, workers) for number in range(workers)]
    with fleet.serving():
        nothing, few = Share(fleet.units, fleet.units + 1), Share(0, math.ceil(fleet.units / 8))
        command(nothing)  # makes the stores
        a_start = cluster.count(command, nothing)
        a_unit = (cluster.count(command, few) - a_start) / fleet.done.total()
        team = [cluster.start(command, share) for share in shares]
        everybody = team + [cluster.start(command, share) for share in rng.sample(shares, round(TWINS * workers))]
        fleet.work(everybody, 0.5)
        for number in rng.sample(range(workers), round(KILLED * workers)):
            cluster.kill(team[number])
            everybody.append(cluster.start(command, shares[number]))
            cluster.pause(rng.random() * fleet.seconds / workers)
        fleet.work(everybody, 0.9)
        for worker in everybody:
            cluster.kill(worker)
        restarted, fleet.begun = cluster.now, []
        team = [cluster.start(command, share) for share in shares]
        fleet.work(team, math.inf)
        begun = max(fleet.begun) - restarted
        a_start, stores = cluster.count(command, nothing), open_run(fleet.run_dir, fleet.config)
        work = saliency.SaliencyWork(fleet.run_dir, fleet.config, opened=stores)
        an_end = cluster.count(lambda: skipped_videos(work.filled(stores.run.parts)))
        lost = lost_units(stores)
    waited, lived = np.sum([(one.waited, one.ended - one.started) for one in everybody + team], axis=0)
    records = [number for path, number in cluster.links.items() if Path(path).parent.name == "done"]
    twice = sum(max(number - 1, 0) for number in [*records, *fleet.done.values()])
    again = fleet.computed - fleet.units
    return Outcome(fleet.units, lost, twice, again, a_unit, a_start, an_end, begun, waited / lived)


def lost_units(stores: Stores) -> int:
    """Count the units that lack a record, or whose rows are not those that the stand-in computed."""
    lost = 0
    for part in stores.run.parts:
        base, maps, boxes = stores.base(part), stores.maps(part, "entropy"), stores.boxes(part, "entropy")
        missing = {unit for store in (base, maps, boxes) for unit in store.product.todo()}
        rows = np.arange(part.num_rows)
        rows = rows[~np.isin(rows // part.rows_per_unit, list(missing))]
        wrong = rows[base.read_rows("entropy", rows) != rows]
        lost += len(missing | set((wrong // part.rows_per_unit).tolist()))
    return lost


def share_waiting(workers: int, operations: int, seconds: float, rate: float) -> float:
    """Share of their time that workers wait for the file system, each operation by itself, each unit after computing.

    Args:
        operations, seconds: of a unit.
    """
    coming = [
        (seconds * number / workers, operations * UNITS) for number in range(workers)
    ]  # (when, how many are left)
    free = waited = 0.0
    while coming:
        now, left = coming[0]
        free = max(free, now) + 1 / rate
        waited += free - now
        if left > 1:
            heapreplace(coming, (free + (seconds if left % operations == 1 else 0.0), left - 1))
        else:
            heappop(coming)
    return waited / (waited + workers * UNITS * seconds)


def table(site: Site, costs: list[tuple[str, float]], videos: int, now: float) -> Iterator[str]:
    """Yield the lines of a table: the share of waiting, of 10, 100 and 1,000 workers.

    Args:
        costs: kinds of workers, and the seconds of a unit.
        now: operations of a unit.
    """
    yield "|  | workers | before | now | now, with units of | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, seconds in costs:
        for workers in WORKERS:
            whole = seconds * videos / site.videos_per_unit
            stages = [StageEstimate("saliency", 0, 0, {}, whole / workers, 0, workers)]
            counts = Counts([PartSize("train", videos, 1, site.videos_per_unit)], {}, [], None, True)
            best = best_unit_size(counts, stages, 1, {}, site.videos_per_unit).videos
            kinds = [(BEFORE, seconds), (now, seconds), (now, seconds * best / site.videos_per_unit)]
            shares = [share_waiting(workers, round(count), each, site.metadata_rate) for count, each in kinds]
            before, after, larger = (f"{share:.1%}" for share in shares)
            yield f"| {name} | {workers:,} | {before} | {after} | {best} videos | {larger} |"


@click.command()
@click.option("--workers", default=WORKERS[-1], show_default=True, help="Of the simulation, with a GPU each.")
@click.option("--train", default=TRAIN, show_default=True, help="Training videos.")
@click.option("--evaluation", default=EVALUATION, show_default=True, help="Evaluation videos.")
@click.option("--videos-per-unit", default=2, show_default=True)
@click.option("--metadata-rate", default=5000.0, show_default=True, help="Operations a second of the file system.")
@click.option("--folder", "place", type=click.Path(path_type=Path), help="For the run.  [default: a temporary one]")
def main(workers: int, train: int, evaluation: int, videos_per_unit: int, metadata_rate: float, place: Path | None):
    """Let simulated workers fill a run through kills; say what waits for metadata, before and now.

    Exits with 1 where a unit was lost or done twice.
    """
    kept, clips = KEPT.validate_json(Path(__file__).with_name("scaling.json").read_bytes()), load("charades").clips
    videos = train + evaluation
    rows = (train * clips.aug_seeds + evaluation * clips.eval_clips) / videos
    site = Site(rows_per_video=rows, videos_per_unit=videos_per_unit, metadata_rate=metadata_rate)
    on_gpu, on_core, _ = site.works(kept.costs, kept.row)
    with tempfile.TemporaryDirectory(dir=place) as name:
        run_dir = Path(name).resolve()
        config = prepared(run_dir, train, evaluation, videos_per_unit)
        found = simulate(Fleet(run_dir, config, on_gpu.seconds, metadata_rate), workers)
    before = workers * BEFORE_AT_START * found.units / metadata_rate
    summary = workers * found.an_end / metadata_rate
    click.echo(f"{workers:,} workers, {on_gpu.seconds:.2f} s a unit; {videos:,} videos in {found.units:,} units")
    click.echo(
        f"{metadata_rate:,.0f} operations on metadata a second; workers waited {found.waiting:.1%} of their time"
    )
    click.echo(f"{found.lost} units lost, {found.twice} done twice, {found.again} begun again after kills")
    click.echo(f"operations: {found.a_unit:.0f} a unit (before {BEFORE:,}), {found.a_start:,} a start")
    click.echo(f"started again near the end, all have begun after {found.begun:.0f} s (before {before:,.0f} s)")
    click.echo(f"videos left out are read at the end in {found.an_end:,} operations: {summary:,.0f} s for all workers")
    click.echo("\nShare of their time that workers wait for metadata, while they work:\n")
    for line in table(site, [(one.name, one.seconds) for one in (on_gpu, on_core)], videos, found.a_unit):
        click.echo(line)
    raise SystemExit(1 if found.lost or found.twice else 0)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.fleet")
