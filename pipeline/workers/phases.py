"""Where the time of a stage goes: named phases that add up, over threads and processes; nearly free when off.

A phase inside another one stops the clock of the outer one, so every moment counts once: in the foreground the phases
and "other" make up the whole ("idle", a parent whose workers work, is left out). What threads and loader processes do
ahead of the foreground is counted apart.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, TypeVar

Phase = Literal["decode", "resize", "transfer", "network", "encode", "write", "wait", "other", "idle"]
PHASES: tuple[Phase, ...] = ("decode", "resize", "transfer", "network", "encode", "write", "wait", "other")  # shown
Seconds = dict[tuple[str, bool], float]  # by phase, and whether it was ahead of the foreground
Item = TypeVar("Item")

_clock: "_Clock | None" = None  # None: no profile is being taken
_OFF = nullcontext()


class _Clock:
    """Seconds by phase of one process. `owner` is the process that will print them."""

    def __init__(self, owner: int):
        self.owner, self.process = owner, os.getpid()
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
    """Count the time inside to a phase, where a profile is being taken."""
    return _OFF if _clock is None else _clock.phase(name)


def each(name: Phase, items: Iterable[Item]) -> Iterator[Item]:
    """Pass items on; the time it takes to get them belongs to a phase, what happens between does not."""
    if _clock is None:
        yield from items
        return
    items, nothing = iter(items), object()
    while True:
        with phase(name):
            item = next(items, nothing)
        if item is nothing:
            return
        yield item


@contextmanager
def taken(show: Callable[[str], None], label: str) -> Iterator[None]:
    """Take a profile of what happens inside, and show it at the end, also after an error."""
    global _clock
    before, _clock = _clock, _Clock(os.getpid())
    start = time.perf_counter()
    try:
        with phase("other"):
            yield
    finally:
        seconds, _clock = _clock.seconds, before
        show(report(seconds, label, time.perf_counter() - start))


def owner() -> int | None:
    """The process that prints, for its workers; None where no profile is being taken."""
    return None if _clock is None else _clock.owner


def lent(owner: int | None, work: Callable[[], Item], ahead: bool = False) -> tuple[Item, Seconds]:
    """Do some work, perhaps in another process than the one that prints.

    Args:
        owner: `owner()` of the process that will `collect`.
        ahead: whether this process works ahead of the foreground.
    Returns:
        what work returned; seconds to `collect`, none where the work was done by the owner itself.
    """
    global _clock
    if owner in (None, os.getpid()):
        with phase("other"):
            return work(), {}
    before, _clock = _clock, _Clock(owner)  # a fork has inherited what its parent measured
    try:
        with phase("other"):
            result = work()
        return result, {(name, ahead or early): value for (name, early), value in _clock.seconds.items()}
    finally:
        _clock = before


def collect(seconds: Seconds) -> None:
    """Add what another process measured."""
    for (name, ahead), value in seconds.items():
        if _clock is not None:
            _clock.add(name, value, ahead)


def report(seconds: Seconds, label: str, wall: float) -> str:
    """The table that is printed: seconds and shares, of the foreground and of what ran ahead of it."""
    lines = [f"where the time of {label} went, {wall:.2f} s by the clock:"]
    for ahead, title in ((False, "all processes"), (True, "meanwhile, ahead of them")):
        found = {name: seconds[name, ahead] for name in PHASES if (name, ahead) in seconds}
        total = sum(found.values())
        lines += [f"  {title:<26}{total:9.2f} s"] if found else []
        lines += [
            f"    {name:<24}{value:9.2f} s{100 * value / max(total, 1e-9):7.1f} %" for name, value in found.items()
        ]
    return "\n".join(lines)


def settled(name: Phase, device) -> AbstractContextManager:
    """`phase` around work that a GPU may still be busy with when its call returns: then the phase waits for it."""
    return _OFF if _clock is None else _settle(name, device)


@contextmanager
def _settle(name: Phase, device) -> Iterator[None]:
    with phase(name):
        yield
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize(device)
