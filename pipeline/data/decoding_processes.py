"""Videos decoded and cut into clips by processes: of more than a few threads, each waits for Python's lock."""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Timer
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import PipelineError, StageError
from pipeline.workers import phases

log = logging.getLogger(__name__)
SHARED_MEMORY = Path("/dev/shm")  # where PyTorch passes tensors from process to process
Key = TypeVar("Key")
CutClip = tuple[int, np.ndarray, np.ndarray]  # see `cut_clips`


class DecodingProcesses(Generic[Key]):
    """Computes work(key), the clips of a video, in processes, for keys in the order in which they will be asked for.

    Each process works on one video, or holds its clips until it is asked for. A key is hashable and comes once.
    Where one is killed, PyTorch raises a RuntimeError in the main thread, whatever that is doing then.
    """

    def __init__(self, work: Callable[[Key], Iterable[CutClip]], keys: list[Key], processes: int):
        self.work, self.coming, self.begun = work, deque(enumerate(keys)), deque()
        how = {"batch_size": None, "num_workers": processes, "prefetch_factor": 1, "collate_fn": _as_it_is}
        self.videos = iter(DataLoader(_Videos(work, keys), sampler=self._begin(), **how))

    def __enter__(self) -> "DecodingProcesses":
        return self

    def __exit__(self, *error) -> None:
        # PyTorch waits for each that is at work, 5 seconds for one after the other
        late = Timer(1, lambda: [process.terminate() for process in self.videos._workers])
        late.start()
        self.videos._shutdown_workers()  # an error would keep them alive if this were left to `del`
        late.cancel()

    def get(self, key: Key) -> Iterator[CutClip]:
        """Iterate over the clips of a key; keys before it are dropped, one that is not to come is worked on now.

        Of those dropped, no process begins what none has begun, as where another command has done their unit.

        Raises:
            PipelineError, OSError: as work, of which most are VideoErrors. StageError: shared memory is full.
        """
        if key not in self.begun:
            if not any(key == other for _, other in self.coming):
                return iter(self.work(key))
            while self.coming[0][1] != key:
                self.coming.popleft()
        while True:
            with phases.phase("wait"):
                found, seconds = next(self.videos)
            phases.add_worker(seconds)
            if self.begun.popleft() == key:
                break
        if isinstance(found, Exception):
            raise found
        rows, volumes, checksums = found
        return zip(rows, volumes.numpy(), checksums, strict=True)

    def _begin(self) -> Iterator[int]:
        """Yield the number of the next key, whenever a process takes one."""
        while self.coming:
            number, key = self.coming.popleft()
            self.begun.append(key)
            yield number


class _Videos(Dataset):
    def __init__(self, work: Callable[[Key], Iterable[CutClip]], keys: list[Key]):
        self.work, self.keys, self.profiler = work, keys, phases.profiler_id()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> tuple[tuple[list[int], Tensor, np.ndarray] | Exception, phases.Seconds]:
        return phases.profile_worker(self.profiler, lambda: self._clips(self.keys[number]), ahead=True)

    def _clips(self, key: Key) -> tuple[list[int], Tensor, np.ndarray] | Exception:
        """Return local rows, uint8 (rows, T, H_in, W_in, 3), uint32 (rows, T); or the error, as `Epoch` does."""
        try:
            rows, volumes, checksums = zip(*self.work(key), strict=True)
        except (PipelineError, OSError) as error:  # PyTorch would put a traceback into their texts
            return error
        try:  # here: what fails in the thread that passes tensors on never arrives
            clips = torch.from_numpy(np.stack(volumes)).share_memory_()
        except RuntimeError as error:  # "unable to allocate shared memory(shm) ...: No space left on device (28)"
            return StageError(f"{SHARED_MEMORY}: {error}; fewer workers need less")
        return list(rows), clips, np.stack(checksums)


def num_processes(wanted: int, num_bytes: int) -> int:
    """Return for how many processes, each with two videos of so many bytes, there is shared memory; 0: too few.

    Warns where there are fewer than wanted.
    """
    if wanted < 2:
        return 0
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    found = min(wanted, free // (2 * num_bytes))
    found = found if found > 1 else 0
    if found < wanted:
        need = (
            f"{2 * wanted * num_bytes / 1e9:.1f} GB of shared memory in {SHARED_MEMORY}, {free / 1e9:.1f} GB are free"
        )
        log.warning("%d processes that decode need %s: %s decode instead", wanted, need, found or "threads")
    return found


def _as_it_is(item: object) -> object:
    return item
