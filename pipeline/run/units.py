"""Work through the units of a plan: in parallel, in any order, with the same bytes, going on after a bad video."""

import logging
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from cache.commit import in_use
from pipeline.config import Config
from pipeline.run.folder import Workspace
from pipeline.workers import phases
from pipeline.workers.device_claims import claimed
from pipeline.workers.engines import HERE, Engine, results
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import Site, shown

log = logging.getLogger(__name__)


def open_workspace(run_dir: Path, config: Config) -> Workspace:
    """The workspace of a worker process, read once for all its units, and again when plan or labels were replaced."""
    files = [run_dir / "labels.csv", run_dir / "classes.txt", *sorted((run_dir / "plan").glob("part-*.json"))]
    found = [file.stat() for file in files if file.exists()]
    return _open(run_dir, config, tuple((stat.st_ino, stat.st_mtime_ns) for stat in found))


@lru_cache(maxsize=1)
def _open(run_dir: Path, config: Config, version: tuple) -> Workspace:
    return Workspace(run_dir, config)


@dataclass(frozen=True)
class Share:
    """Which units of every plan part a process does: number % of == index. For machines that share no locks."""

    index: int = 0
    of: int = 1

    def units(self, units: Iterable[int]) -> list[int]:
        """Those of the units that belong to this share, sorted."""
        return sorted(unit for unit in units if unit % self.of == self.index)


EVERYTHING = Share()


def run_units(
    work: Callable,
    workspace: Workspace,
    jobs: list[tuple],
    workers: int,
    label: str,
    engine: Engine = HERE,
    on_device: bool = False,
) -> int:
    """Call work(run_dir, config, *job, wait=..., crashed=...) for every job.

    A unit whose worker died, and whose retries died as well, runs again alone; one that kills that worker, too, is
    called with `crashed` and records its videos as skipped. Units in the hands of another process are waited for at the
    end, and done here should that process die.

    Args:
        work: a function at module level that commits its unit itself and returns how many rows it did, or None where
            another process is at work on it and `wait` is False.
        workspace: names run folder and config.
        jobs: arguments of each call; one unit each.
        workers: processes on this machine. They share nothing but the disk. One worker is this very process.
        label: of the progress display.
        engine: who works; with another engine than loky, as many workers as it has.
        on_device: work computes on `config.device`, with `config.saliency.threads` on the CPU.
    Returns:
        rows done by this call.
    """
    if not jobs:
        return 0
    config, rows, held = workspace.config, 0, []
    devices = engine.devices if on_device else ()
    wants = {"threads": config.saliency.threads, "on_gpu": config.device != "cpu"} if on_device else {}
    with nullcontext() if engine.is_here else shown(workspace.path, workspace.videos_root) as site:
        claims = f"focused-attention-{uuid.uuid4().hex}"
        call = partial(_call, work, workspace.path, config, site, devices, claims, phases.owner())
        done_jobs = results(call, jobs, workers, engine, **wants)
        for job, (done, seconds) in progress(done_jobs, len(jobs), label, "units"):
            phases.collect(seconds)
            rows += done or 0
            held += [job] if done is None else []
        return rows + sum(call(job, wait=True)[1][0] for job in held)


def _call(
    work: Callable,
    run_dir: Path,
    config: Config,
    site: Site | None,
    devices: tuple[str, ...],
    claims: str,
    profiler: int | None,
    job: tuple,
    **options,
) -> tuple[tuple, tuple[int | None, phases.Seconds]]:
    """One job where the files are, under the run lock, on a device of its own.

    Returns:
        the job; what its work returned, and the profile of a worker.
    """
    with ExitStack() as stack:
        if site:
            stack.enter_context(site.entered())
        stack.enter_context(in_use(run_dir))
        if devices and not options.get("crashed"):
            config = replace(config, device=stack.enter_context(claimed(devices, claims)))
        return job, phases.lent(profiler, lambda: work(run_dir, config, *job, **options))
