"""Where the time of a stage goes: named phases, over threads and processes; nearly free when off.

A phase inside another one stops the outer one's clock. So the phases of the main thread and "other" add up to its
whole time, without "idle", in which it waits for workers. What runs ahead of the main thread is counted apart.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeVar

Phase = Literal["decode", "resize", "transfer", "network", "encode", "write", "wait", "other", "idle"]
PHASES: tuple[Phase, ...] = ("decode", "resize", "transfer", "network", "encode", "write", "wait", "other")  # printed
Seconds = dict[tuple[str, bool], float]  # by phase, and whether it ran ahead of the main thread
Item = TypeVar("Item")

_clock: "_Clock | None" = None  # None: nothing is profiled
_OFF = nullcontext()
_END = object()


class _Clock:
    """Seconds by phase of one process; `profiler` is the id of the process that prints the profile."""

    def __init__(self, profiler: int):
        self.profiler = profiler
        self.seconds: Seconds = {}
        self.lock, self.local = threading.Lock(), threading.local()

    def add(self, name: str, seconds: float, ahead: bool | None = None) -> None:
        ahead = threading.current_thread() is not threading.main_thread() if ahead is None else ahead
        with self.lock:
            self.seconds[name, ahead] = self.seconds.get((name, ahead), 0.0) + seconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        running = self.local.__dict__.setdefault("running", [])  # of this thread: [phase, since when]
        now = time.perf_counter()
        if running:
            self.add(running[-1][0], now - running[-1][1])
        running.append([name, now])
        try:
            yield
        finally:
            now = time.perf_counter()
            self.add(name, now - running.pop()[1])
            if running:
                running[-1][1] = now


def phase(name: Phase) -> AbstractContextManager:
    """Count the time inside the context to a phase, where a profile is taken."""
    return _OFF if _clock is None else _clock.phase(name)


@contextmanager
def device_phase(name: Phase, device) -> Iterator[None]:
    """Count as `phase` does; where a profile is taken, wait at the end until the GPU has finished the work."""
    with phase(name):
        yield
        if _clock is not None and device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)


def timed_items(name: Phase, items: Iterable[Item]) -> Iterator[Item]:
    """Pass items on; count to a phase the time it takes to get each, and not what the consumer does in between."""
    items = iter(items)
    while True:
        with phase(name):
            item = next(items, _END)
        if item is _END:
            return
        yield item


@contextmanager
def profile(show: Callable[[str], None], label: str) -> Iterator[Seconds]:
    """Profile what happens inside the context, and pass the table to `show` at the end, also after an error.

    Yields the seconds of all phases, complete after the context.
    """
    global _clock
    before, _clock = _clock, _Clock(os.getpid())
    start = time.perf_counter()
    try:
        with phase("other"):
            yield _clock.seconds
    finally:
        seconds, _clock = _clock.seconds, before
        show(_table(seconds, label, time.perf_counter() - start))


def profiler_id() -> int | None:
    """Return the id of the process that prints the profile, to be passed to workers; None where none is taken."""
    return None if _clock is None else _clock.profiler


def profile_worker(profiler: int | None, work: Callable[[], Item], ahead: bool = False) -> tuple[Item, Seconds]:
    """Call work(), usually in a worker process; return its result and the seconds of its phases, for `add_worker`.

    There are none where this process is itself the profiler, see `profiler_id`, or nothing is profiled. With `ahead`,
    this process works ahead of the main thread.
    """
    global _clock
    if profiler in (None, os.getpid()):
        with phase("other"):
            return work(), {}
    before, _clock = _clock, _Clock(profiler)  # a forked process has inherited the measurements of its parent
    try:
        with phase("other"):
            result = work()
        return result, {(name, ahead or early): value for (name, early), value in _clock.seconds.items()}
    finally:
        _clock = before


def add_worker(seconds: Seconds) -> None:
    """Add what a worker process measured to the profile."""
    for (name, ahead), value in seconds.items():
        if _clock is not None:
            _clock.add(name, value, ahead)


def _table(seconds: Seconds, label: str, wall: float) -> str:
    """Format seconds and shares, of the main threads and of what ran ahead of them."""
    lines = [f"where the time of {label} went, {wall:.2f} s by the clock:"]
    for ahead, title in ((False, "all processes"), (True, "meanwhile, ahead of them")):
        found = {name: seconds[name, ahead] for name in PHASES if (name, ahead) in seconds}
        total = sum(found.values())
        lines += [f"  {title:<26}{total:9.2f} s"] if found else []
        for name, value in found.items():
            lines.append(f"    {name:<24}{value:9.2f} s{100 * value / max(total, 1e-9):7.1f} %")
    return "\n".join(lines)
