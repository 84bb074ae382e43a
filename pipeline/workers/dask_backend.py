"""joblib's Dask backend, for units: a task that the scheduler gives up on is reported, instead of waited for."""

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, KilledWorker
from joblib._dask import DaskDistributedBackend

from cache.errors import relative_to
from pipeline.errors import StageError
from pipeline.workers.killed import KILLED

SECONDS_FOR_WORKERS = 60  # to appear, where there are none yet


@contextmanager
def connected(scheduler: str, threads: int, on_gpu: bool) -> Iterator["DaskUnits"]:
    """A backend on the workers of a running scheduler, given by its address or the path of its scheduler file.

    Dask knows no threads and GPUs: those who start the workers give them cores and GPUs. StageError where no scheduler
    answers, or a worker has several threads: units in one process would share a network and its number of threads.
    """
    address = _address(scheduler)
    try:
        client = Client(address, timeout=20)
    except (OSError, ValueError) as error:
        raise StageError(f"--scheduler {scheduler}: no Dask scheduler answers: {error}") from error
    with client:
        if several := [worker for worker, number in client.nthreads().items() if number > 1]:
            raise StageError(f"Dask worker {several[0]} has several threads; start workers with --nthreads 1")
        try:
            yield DaskUnits(client=client, wait_for_workers_timeout=SECONDS_FOR_WORKERS)
        except TimeoutError as error:
            raise StageError(f"--scheduler {scheduler}: no worker in {SECONDS_FOR_WORKERS} seconds") from error


def _address(scheduler: str) -> str:
    """The address of a scheduler. Dask would wait for ever for a file that is missing. StageError as `connected`."""
    if re.match(r"[a-z]+://", scheduler):
        return scheduler
    try:
        return str(json.loads(Path(scheduler).read_bytes())["address"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        what = (
            f"neither an address, such as tcp://host:8786, nor the file of a running scheduler{relative_to(scheduler)}"
        )
        raise StageError(f"--scheduler {scheduler}: {what}: {error!r}") from error


@dataclass(frozen=True)
class _Lost:
    """Jobs of a task that failed outside our code."""

    jobs: list[tuple]
    error: BaseException


class DaskUnits(DaskDistributedBackend):
    """Dask moves the tasks of a dead worker to another one, until `distributed.scheduler.allowed-failures` have died.

    joblib 1.6 does not notice that a task ends so, and its Parallel never returns.
    """

    def effective_n_jobs(self, n_jobs: int) -> int:
        """The number of workers, at least 2: with 1, joblib works in this very process; more may be on their way."""
        return max(super().effective_n_jobs(n_jobs), 2)

    def submit(self, func, callback=None) -> Future:
        """Hand a batch to the scheduler; the callback is called however it ends."""
        future = super().submit(func, callback)
        jobs = [arguments[0] for _, arguments, _ in func.items]
        future.add_done_callback(lambda done: done.exception() and callback(_Lost(jobs, done.exception())))
        return future

    def retrieve_result_callback(self, out) -> list[tuple]:
        if isinstance(out, _Lost) and isinstance(out.error, KilledWorker):
            return [(job, KILLED) for job in out.jobs]
        if isinstance(out, _Lost | asyncio.CancelledError | CancelledError):
            error = out.error if isinstance(out, _Lost) else out
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise StageError(f"Dask lost a unit ({text}); the same command goes on")
        return super().retrieve_result_callback(out)
