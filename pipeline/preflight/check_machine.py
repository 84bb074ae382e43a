"""Check the machine: Python, libraries, device, decoder, disk, shared memory, open files."""

import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cache.errors import StorageError
from cache.folder_checks import check_folder, free_space
from cache.stores.volume_store import OPEN_FILES
from pipeline.config import Config
from pipeline.data.video.container import DECODERS, decoder_versions
from pipeline.preflight.finding import Finding, judged
from pipeline.workers.versions import install_command, missing_or_old

OLDEST_PYTHON = (3, 11)
PREFETCH = 2  # batches that each loader worker of PyTorch reads ahead
SHARED_MEMORY = Path("/dev/shm")
LEAST_BYTES, LEAST_INODES = 1 << 30, 10_000


def check_python(found: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    """Check the version of the interpreter."""
    text = f"Python {'.'.join(map(str, found))} on {platform.system()} {platform.machine()}"
    oldest = ".".join(map(str, OLDEST_PYTHON))
    fix = f"Python {oldest} or later is needed: make setup PYTHON=python{oldest}"
    yield judged("python", found[:2] < OLDEST_PYTHON, text, fix)


def check_libraries(wanted: list[str] | None = None, version_of: Callable[[str], str] = version) -> Iterator[Finding]:
    """Check the version of every library that the project needs, or of those in `wanted`, such as "torch>=2.10"."""
    try:
        bad, old = (missing_or_old(wanted, version_of, extras) for extras in (False, True))
    except PackageNotFoundError:
        yield Finding("libraries", "note", "the project is not installed, so its needs are not known", "make setup")
        return
    text = "; ".join(bad.values()) or f"all that are needed, torch {torch.__version__}"
    yield judged("libraries", bool(bad), text, install_command(bad))
    if old:
        yield Finding("libraries", "note", f"of the extras: {'; '.join(old.values())}", install_command(old))


def check_device(config: Config) -> Iterator[Finding]:
    """Check that the config's device is there, and that workers and cores fit each other."""
    cores, has_gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    if has_gpu:
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        yield Finding("device", "ok", f"{len(names)} CUDA device(s): {', '.join(names)}")
    elif config.device == "cuda":
        fix = "--set device=auto, or a driver and a PyTorch that fit each other (python -m torch.utils.collect_env)"
        yield Finding("device", "problem", "device = cuda, and PyTorch sees no GPU", fix)
    else:
        yield Finding("device", "ok", f"CPU, {cores} cores for this process")
    busy = config.workers * (config.saliency.threads if not has_gpu else 1)
    if busy > cores:
        text = f"workers = {config.workers} with {config.saliency.threads} thread(s) each on {cores} cores"
        yield Finding("workers", "note", text, f"--set workers={max(1, cores // config.saliency.threads)}")


def check_decoder() -> Iterator[Finding]:
    """Check that PyAV decodes the codecs that videos are usually in."""
    text, missing = decoder_versions()
    text += f"; cannot decode {', '.join(missing)}" if missing else f"; decodes {', '.join(DECODERS)}"
    fix = "a PyAV from PyPI decodes all of them: python -m pip install --force-reinstall av"
    yield judged("decoder", bool(missing), text, fix)


def check_folder_of(run_dir: Path) -> Iterator[Finding]:
    """Check the disk where the run folder is or will be: free space, renames, links and locks."""
    free, inodes = free_space(run_dir)
    counted = "inodes not counted" if inodes is None else f"{inodes:,} inodes"
    text = f"{free / 1e9:,.1f} GB and {counted} free at {run_dir}; `plan` says what the run takes"
    full = free < LEAST_BYTES or (inodes is not None and inodes < LEAST_INODES)
    yield judged("disk", full, text, "free some, or put the run elsewhere with --run (make: RUN=)")
    whole = run_dir.resolve()
    existing = next(folder for folder in (whole, *whole.parents) if folder.exists())
    try:
        check_folder(existing)
    except StorageError as error:
        fix = "put the run on a local disk with --run (make: RUN=): commits need rename, fsync, links and locks"
        yield Finding("file system", "problem", str(error), fix)
    else:
        yield Finding("file system", "ok", f"renames, links and locks as commits need them at {existing}")


def check_shared_memory(config: Config, folder: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """Check that the batches that loader workers read ahead fit into shared memory."""
    if not folder.is_dir():
        yield Finding("shared memory", "note", f"{folder} is not there", "loader_workers = 0 needs none")
        return
    free = shutil.disk_usage(folder).free
    clips = config.clips
    volume = clips.num_frames * clips.input_side**2 * 3
    ahead = {"base": PREFETCH * config.base.batch_size * volume}  # bytes that one worker reads ahead
    ahead["fusion"] = PREFETCH * config.fusion.batch_size * volume * 2  # context and focus
    for section, each in ahead.items():
        need = getattr(config, section).loader_workers * each
        text = f"{section}: batches read ahead take up to {need / 1e6:,.0f} MB, {folder} has {free / 1e6:,.0f} MB free"
        fix = f"--set {section}.loader_workers={free // each}, or docker run --shm-size={need // 10**9 + 1}g"
        yield judged("shared memory", need > free, text, fix)


def check_open_files(config: Config, limit: int | None = None) -> Iterator[Finding]:
    """Check the limit of open files against what stores and workers need."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    readers = max(config.base.loader_workers, config.fusion.loader_workers)
    need = 100 + 2 * OPEN_FILES + readers * PREFETCH * 4 + 10 * config.workers
    text = f"{limit:,} open files allowed, about {need} needed"  # -1: without limit
    yield judged("open files", 0 <= limit < need, text, f"ulimit -n {max(4096, need)}")
