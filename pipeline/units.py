"""Work through the units of a plan: in parallel, in any order, with the same bytes, going on after a bad video."""

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from joblib import Parallel, delayed

from cache.crop_store import VolumeStore
from cache.saliency_store import ZarrStore
from pipeline.config import Config
from pipeline.progress import progress
from pipeline.workspace import Workspace

log = logging.getLogger(__name__)


def open_workspace(run_dir: Path, config: Config) -> Workspace:
    """The workspace of a worker process, read once for all its units, and again when plan or labels were replaced."""
    files = [run_dir / "labels.csv", run_dir / "classes.txt", *sorted((run_dir / "plan").glob("part-*.json"))]
    found = [file.stat() for file in files if file.exists()]
    return _open(run_dir, config, tuple((stat.st_ino, stat.st_mtime_ns) for stat in found))


@lru_cache(maxsize=1)
def _open(run_dir: Path, config: Config, version: tuple) -> Workspace:
    return Workspace(run_dir, config)


def run_units(work: Callable, workspace: Workspace, jobs: list[tuple], workers: int, label: str) -> int:
    """Call work(run_dir, config, *job) for every job.

    Args:
        work: a function at module level that commits its unit itself and returns how many rows it did.
        workspace: names run folder and config.
        jobs: arguments of each call; one unit each.
        workers: processes. They share nothing but the disk.
        label: of the progress display.
    Returns:
        rows done by this call.
    """
    if not jobs:
        return 0
    calls = (delayed(work)(workspace.path, workspace.config, *job) for job in jobs)
    done = Parallel(n_jobs=min(workers, len(jobs)), return_as="generator_unordered")(calls)
    return sum(progress(done, len(jobs), label, "units"))


def skip(video_id: str, error: Exception) -> dict:
    """The entry of a commit record for a video that failed."""
    log.warning("%s left out: %s: %s", video_id, type(error).__name__, error)
    return {"video_id": video_id, "error": type(error).__name__, "detail": str(error)}


def skipped_videos(store: ZarrStore | VolumeStore) -> set[str]:
    """Ids of the videos that the records of a store name as failed."""
    product = store.product
    done = set(range(product.part.num_units)) - set(product.todo())
    return {entry["video_id"] for unit in done for entry in product.done(unit)["skipped"]}
