"""A joblib backend on Ray tasks. Ray's own one is a pool of actors and cannot hand out results as they come."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import ray
from joblib.parallel import ParallelBackendBase
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from pipeline.errors import StageError
from pipeline.workers.killed import KILLED


@contextmanager
def connected(scheduler: str, threads: int, on_gpu: bool) -> Iterator["RayUnits"]:
    """A backend on the Ray cluster at an address, which stays connected: a local one takes long to start.

    "" is the cluster of this machine, or a local one that ends with this process. A task has so many CPUs (`threads`)
    and with on_gpu a GPU of its own, where the cluster has any. StageError where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster reports nothing unless asked to
    try:
        if not ray.is_initialized():
            ray.init(address=scheduler or None, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StageError(f"--scheduler {scheduler}: no Ray cluster answers: {error}") from error
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    yield RayUnits(num_cpus=threads, num_gpus=int(on_gpu and has_gpus))


def _do(batch) -> list[tuple]:
    return batch()


class RayUnits(ParallelBackendBase):
    """One task a batch, which occupies num_cpus and num_gpus; Ray shows it only the GPUs that are its own.

    Ray runs the task of a dead worker again in another one, three times.
    """

    supports_retrieve_callback = True

    def __init__(self, num_cpus: int = 1, num_gpus: int = 0, nesting_level: int | None = None, **options):
        super().__init__(nesting_level=nesting_level, **options)
        self.num_cpus = num_cpus
        self._task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=3)(_do)

    def effective_n_jobs(self, n_jobs: int) -> int:
        """The number of tasks that the cluster has room for, at least 2: with 1, joblib works in this very process."""
        return max(int(ray.cluster_resources().get("CPU", 1)) // self.num_cpus, 2)

    def configure(self, n_jobs: int = 1, parallel=None, **options) -> int:
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def submit(self, func, callback=None) -> Future:
        """Hand a batch to Ray; the callback is called however it ends."""
        future = self._task.remote(func).future()
        jobs = [arguments[0] for _, arguments, _ in func.items]
        future.add_done_callback(lambda done: callback((jobs, done)))
        return future

    def retrieve_result_callback(self, out) -> list[tuple]:
        jobs, future = out
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, RayTaskError):
            raise error.cause
        if isinstance(error, WorkerCrashedError | OutOfMemoryError | NodeDiedError):
            return [(job, KILLED) for job in jobs]
        raise StageError(f"Ray lost a unit: {type(error).__name__}: {error}; the same command goes on")
