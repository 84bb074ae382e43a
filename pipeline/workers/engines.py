"""Where units are worked on: in processes of this machine (loky), or by the workers of a Dask or Ray cluster.

Clusters are those that people run already; nothing here starts or sizes one. Every engine is driven through joblib. A
job that the engine's own retries did not save is done again alone, and then given up by name.
"""

import logging
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker

from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.backend import resource_tracker as loky_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError

from pipeline.config import Backend
from pipeline.errors import StageError
from pipeline.workers import phases
from pipeline.workers.killed import KILLED

log = logging.getLogger(__name__)

TWICE = "the process that worked on this unit was killed, twice"


@dataclass(frozen=True)
class Engine:
    """Who does the work: processes that "loky" starts here, or the workers of a "dask" or "ray" cluster."""

    backend: Backend = "loky"
    scheduler: str = ""  # address or, of Dask, path of its file; "": Ray's on this machine, or else a local one
    devices: tuple[str, ...] = ()  # torch names; on each machine, one process at a time computes on each; (): config's

    @property
    def is_local(self) -> bool:
        """Whether the workers are processes that this one starts, on this machine."""
        return self.backend == "loky"


LOCAL = Engine()


def parse_devices(text: str) -> tuple[str, ...]:
    """Torch names of a comma-separated list: "0,1" are the first two GPUs, "cpu" and "cpu:1" stay as they are.

    ValueError where it is no such list, or names a device twice.
    """
    names = tuple(f"cuda:{one}" if one.isdecimal() else one for one in text.split(",")) if text else ()
    if not all(re.fullmatch(r"cpu|(cpu|cuda):\d+", name) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{text!r} is not cpu, or numbers of GPUs such as 0,1, each once")
    return names


def results(
    call: Callable, jobs: list[tuple], workers: int, engine: Engine = LOCAL, threads: int = 1, on_gpu: bool = False
) -> Iterator[tuple[tuple, object]]:
    """Every job with its result, in any order, whatever becomes of the workers.

    call(job) returns (job, result); call(job, crashed=why) gives the job up, and is called in this process. StageError
    where the engine is not installed or cannot be reached.

    Args:
        workers: processes of loky. With one, everything runs in this very process. A cluster has as many as it has.
        threads, on_gpu: what a job needs, for the engines that ask.
    """
    if not jobs:
        return
    with _connected(engine, threads, on_gpu) as backend:
        suspects = []
        for job, done in _in_pool(call, jobs, workers) if backend is None else _on_cluster(call, jobs, backend):
            if done is KILLED:
                suspects.append(job)
            else:
                yield job, done
        if suspects:
            log.warning("workers died; %d units that were begun run again, one by one", len(suspects))
        alone = _one_by_one(call, suspects) if backend is None else _on_cluster(call, suspects, backend, at_once=1)
        for job, done in alone:
            yield call(job, crashed=TWICE) if done is KILLED else (job, done)


@contextmanager
def _connected(engine: Engine, threads: int, on_gpu: bool) -> Iterator[object]:
    """joblib's backend for the engine, connected; None for loky."""
    if engine.is_local:
        yield None
        return
    try:
        if engine.backend == "dask":
            from pipeline.workers.dask_backend import connected
        elif engine.backend == "ray":
            from pipeline.workers.ray_backend import connected
    except ModuleNotFoundError as error:
        raise StageError(
            f"--backend {engine.backend}: {error.name} is not installed; "
            f"pip install -e '.[{engine.backend}]' here and where the workers run"
        ) from error
    with connected(engine.scheduler, threads, on_gpu) as backend:
        yield backend


def _in_pool(call: Callable, jobs: list[tuple], workers: int) -> Iterator[tuple[tuple, object]]:
    """Jobs in processes of loky. A worker that dies takes the pool with it: all that was begun counts as KILLED."""
    left = list(jobs)
    while left:
        begun, finished = [], set()
        try:
            pool = Parallel(n_jobs=min(workers, len(left)), return_as="generator_unordered")
            with _ctrl_c_for_this_process():
                work = pool(delayed(call)(begun.append(job) or job) for job in left)
            for job, done in phases.timed_items("idle", work):
                finished.add(job)
                yield job, done
            return
        except TerminatedWorkerError:
            suspects = [job for job in begun if job not in finished]
            left = [job for job in left if job not in finished and job not in suspects]
        yield from ((job, KILLED) for job in suspects)


def in_new_process(call: Callable, *arguments):
    """What call(*arguments) returns in a process that has done nothing else; TerminatedWorkerError where that dies."""
    executor = ProcessPoolExecutor(max_workers=1)
    try:
        with _ctrl_c_for_this_process():
            future = executor.submit(call, *arguments)
        return future.result()
    finally:
        executor.shutdown(kill_workers=True)


@contextmanager
def _ctrl_c_for_this_process() -> Iterator[None]:
    """Processes that are started meanwhile never see the Ctrl-C of the terminal: this one ends them."""
    for tracker in (resource_tracker, loky_tracker):  # some versions unblock the signal when they start
        tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_by_one(call: Callable, jobs: list[tuple]) -> Iterator[tuple[tuple, object]]:
    """Each job alone in a process of this machine."""
    for job in jobs:
        try:
            yield in_new_process(call, job)
        except TerminatedWorkerError:
            yield job, KILLED


def _on_cluster(
    call: Callable, jobs: list[tuple], backend: object, at_once: int | str = "2 * n_jobs"
) -> Iterator[tuple[tuple, object]]:
    """Jobs as tasks of the cluster, one a task, `at_once` in its hands at a time."""
    with parallel_config(backend):  # read when the pool is made; it must not reach the code that takes the results
        pool = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=at_once)
    yield from phases.timed_items("idle", pool(delayed(call)(job) for job in jobs))
