"""Work through the units of a plan: in parallel, in any order, with the same bytes, going on after a bad video."""

import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from cache.commit import in_use
from cache.folder_checks import check_space
from cache.plan import Part
from cache.remote.fetch import remote_of
from pipeline.run.unit_commits import Store, Unit, UnitWork
from pipeline.workers import phases
from pipeline.workers.device_claims import claim_device
from pipeline.workers.engines import LOCAL, Engine, results
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import SharedDirectory, in_directory, share_directory


@dataclass(frozen=True)
class Share:
    """Which units of every plan part a process does: number % of == index. For machines that share no locks."""

    index: int = 0
    of: int = 1

    def units(self, units: Iterable[int]) -> list[int]:
        """Return those of the units that belong to this share, sorted."""
        return sorted(unit for unit in units if unit % self.of == self.index)


EVERYTHING = Share()


def units_to_do(
    work: UnitWork, parts: list[Part], share: Share, size: Callable[[Store, list[int]], tuple[int, int]]
) -> list[Unit]:
    """Return the units that some store of a stage lacks, once the disk that they are for has room for them.

    Args:
        size: estimates the bytes and the number of files of some units of a store.
    Raises:
        StorageError: the disk has no room.
    """
    units, num_bytes, num_files = [], 0, 0
    for part in parts:
        todo = set()
        for store in work.stores_of(part):
            lacking = share.units(store.product.todo())
            of_store = size(store, lacking)
            num_bytes, num_files = num_bytes + of_store[0], num_files + of_store[1]
            todo.update(lacking)
        units += [Unit(part.name, number) for number in sorted(todo)]
    if not remote_of(work.run_dir):
        check_space(work.run_dir, num_bytes, num_files)
    return units


def gather_records(stores: Iterable[Store]) -> None:
    """Gather the commit records of some stores in segments, where they have become many."""
    for store in stores:
        with in_use(store.product.path.parents[1]):
            store.product.gather()


def run_units(
    work: UnitWork, units: list[Unit], workers: int, label: str, engine: Engine = LOCAL, on_device: bool = False
) -> int:
    """Do some units of a stage.

    A unit whose worker died, and whose retries died as well, runs again alone; if it kills that worker too, its videos
    are recorded as skipped. Units that another process works on come last: this process waits for them, and does them
    itself if the other one dies.

    Args:
        workers: processes on this machine; one worker is this very process. Another engine than loky has its own.
        label: of the progress display.
        on_device: the work computes on `config.device`, with `config.saliency.threads` on the CPU.
    Returns:
        rows done by this call.
    """
    if not units:
        return 0
    config, rows, held, token = work.config, 0, [], f"focused-attention-{uuid.uuid4().hex}"
    devices = engine.devices if on_device else ()
    wants = {"threads": config.saliency.threads, "on_gpu": config.device != "cpu"} if on_device else {}
    with nullcontext() if engine.is_local else share_directory(work.run_dir, work.videos) as site:
        call = partial(_call, work, token, site, devices, phases.profiler_id())
        call = in_directory(call) if engine.is_local else call  # a kept worker may have begun in another directory
        try:
            found = results(call, units, workers, engine, **wants)
            for unit, (done, seconds) in progress(found, len(units), label, "units"):
                phases.add_worker(seconds)
                rows += done or 0
                held += [unit] if done is None else []
            return rows + sum(call(unit, wait=True)[1][0] for unit in held)
        finally:
            _opened_once.cache_clear()  # of this process: stores and network are not needed any more


def _call(
    work: UnitWork,
    token: str,
    site: SharedDirectory | None,
    devices: tuple[str, ...],
    profiler: int | None,
    unit: Unit,
    **options,
) -> tuple[Unit, tuple[int | None, phases.Seconds]]:
    """Do one unit where the files are, under the run lock, on a device of its own.

    Returns:
        the unit; what `UnitWork.do` returned, and the profile of a worker.
    """
    with ExitStack() as stack:
        if site:
            stack.enter_context(site.enter())
        stack.enter_context(in_use(work.run_dir))
        if devices and not options.get("crashed"):
            device = stack.enter_context(claim_device(devices, token))
            work = replace(work, config=replace(work.config, device=device))
        return unit, phases.profile_worker(profiler, lambda: _opened_once(work, token).do(unit, **options))


@lru_cache(maxsize=1)
def _opened_once(work: UnitWork, token: str) -> UnitWork:
    """Return the equal work that this process used before in the same call of `run_units`, with its open stores."""
    return work
