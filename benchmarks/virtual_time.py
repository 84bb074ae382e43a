"""Workers in virtual time before one simulated file system; all take turns in one thread.

Computing is a pause. Every operation on metadata below a folder is counted, waits in one queue that serves so many a
second, and is then done for real; only fsync is not, for it would cost the time of this machine. A worker that is
killed does nothing any more, and its locks are free, as with kill -9.
"""

import builtins
import fcntl
import io
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from unittest import mock

from greenlet import getcurrent, greenlet

from cache import commit

CALLS = (  # of module os
    *("access", "fsync", "ftruncate", "link", "listdir", "lstat", "mkdir", "open", "remove", "rename", "replace"),
    *("rmdir", "scandir", "stat", "statvfs", "truncate", "unlink", "utime"),
)
LISTED = 800  # names that one call of getdents64 gives; the last call gives none
POLL = 1.0  # seconds, from one look at a lock that another worker has to the next


class Killed(BaseException):
    """The worker is dead."""


class Worker:
    """A stack of its own in this thread, and its seconds; `ended` is None while it lives."""

    def __init__(self, stack: greenlet, started: float):
        self.stack, self.started, self.ended, self.waited, self.is_dead = stack, started, None, 0.0, False


class OwnValues:
    """To workers what `threading.local` is to threads."""

    __dict__ = property(lambda self: vars(getcurrent()))


class Cluster:
    """Virtual time, the workers in it, and the file system, which serves `rate` operations a second.

    Attributes:
        now: seconds.
        operations: done so far, by name.
        links: how often each path was made by a link, as commit records are.
        running: the worker whose turn it is; at first the caller.
    """

    def __init__(self, rate: float):
        self.rate, self.now, self.operations, self.links = rate, 0.0, Counter(), Counter()
        self.running = self._caller = Worker(getcurrent(), 0.0)
        self._thread = threading.current_thread()
        self._free, self._owed = 0.0, 0  # when the file system is free; operations of other threads
        self._coming, self._numbers = [], count()

    def start(self, call: Callable, *arguments) -> Worker:
        """Start a worker that makes a call; it runs when the calling worker waits. What it raises, the first raises."""

        def run():
            with suppress(Killed):
                if not worker.is_dead:
                    call(*arguments)
            worker.ended = self.now

        worker = Worker(greenlet(run), self.now)
        heappush(self._coming, (self.now, next(self._numbers), worker))
        return worker

    def kill(self, worker: Worker) -> None:
        """Kill a worker, as soon as the calling one waits."""
        worker.is_dead = True
        heappush(self._coming, (self.now, next(self._numbers), worker))

    def pause(self, seconds: float) -> None:
        """Let so many seconds pass for the calling worker."""
        me = self.running
        heappush(self._coming, (self.now + seconds, next(self._numbers), me))
        if me is not self._caller:
            self._caller.stack.switch()  # which hands on the turn below
        else:
            while (other := self._next()) is not me:
                other.stack.switch()
        if me.is_dead:
            raise Killed

    def ask(self, name: str, number: int = 1) -> None:
        """Wait until the file system has served some operations. What Zarr's thread asks for, its worker waits for."""
        self.operations[name] += number
        if threading.current_thread() is not self._thread:
            self._owed += number
            return
        if self.running.is_dead:
            raise Killed
        self._free = max(self._free, self.now) + (number + self._owed) / self.rate
        self._owed = 0
        self.running.waited += self._free - self.now
        self.pause(self._free - self.now)

    def count(self, call: Callable, *arguments) -> int:
        """Return how many operations a call takes."""
        before = self.operations.total()
        call(*arguments)
        return self.operations.total() - before

    @contextmanager
    def serving(self, folder: Path) -> Iterator[None]:
        """Serve what this process does below a folder."""
        opened = self._served("open", io.open, f"{folder}/")
        calls = [(io, "open", opened), (builtins, "open", opened), (fcntl, "flock", self._locked(fcntl.flock))]
        for name in CALLS:
            calls.append((os, name, self._served(name, getattr(os, name), f"{folder}/")))
        with ExitStack() as stack:
            for call in [*calls, (commit, "_in_use", OwnValues())]:
                stack.enter_context(mock.patch.object(*call))
            yield

    def _next(self) -> Worker:
        """Move on to the worker who waits for the earliest moment."""
        while True:
            moment, _, worker = heappop(self._coming)
            if worker.ended is None:
                self.now, self.running = max(self.now, moment), worker
                return worker

    def _served(self, name: str, real: Callable, below: str) -> Callable:
        listdir = os.listdir

        def call(path, *arguments, **options):
            if name in ("fsync", "ftruncate") or f"{path}/".startswith(below):
                self.ask(name, 3 + len(listdir(path)) // LISTED if name in ("listdir", "scandir") else 1)
            found = None if name == "fsync" else real(path, *arguments, **options)
            if name == "link":
                self.links[str(arguments[0])] += 1
            return found

        return call

    def _locked(self, real: Callable) -> Callable:
        def flock(file, how: int) -> None:
            self.ask("flock")
            while True:
                try:
                    return real(file, how | fcntl.LOCK_NB)
                except BlockingIOError:
                    if how & fcntl.LOCK_NB:
                        raise
                self.pause(POLL)

        return flock
