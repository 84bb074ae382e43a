"""Work that threads do ahead of who consumes it, in order and bounded. Decoding and resizing let other threads run."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Generic, TypeVar

from pipeline.workers import phases

Key = TypeVar("Key")
Item = TypeVar("Item")


def buffered(items: Iterator[Item], depth: int = 1) -> Iterator[Item]:
    """Run an iterator in a thread that stays at most `depth` items ahead; what it raises is raised here."""
    nothing = object()
    with ThreadPoolExecutor(1, "buffered") as thread:
        waiting = deque(thread.submit(next, items, nothing) for _ in range(depth))
        try:
            while True:
                with phases.phase("wait"):
                    item = waiting.popleft().result()
                if item is nothing:
                    return
                waiting.append(thread.submit(next, items, nothing))
                yield item
        finally:
            for future in waiting:
                future.cancel()


class Stream(Generic[Item]):
    """Items that one thread makes and another takes, each as soon as it is there; what the maker raises comes last."""

    def __init__(self, items: Iterable[Item]):
        self.source, self.made, self.ended, self.error = items, [], False, None
        self.changed = Condition()

    def fill(self) -> None:
        """Make all items, in the thread that calls."""
        try:
            for item in self.source:
                with self.changed:
                    self.made.append(item)
                    self.changed.notify()
        except BaseException as error:
            self.error = error
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify()

    def __iter__(self) -> Iterator[Item]:
        for number in itertools.count():
            with phases.phase("wait"), self.changed:
                self.changed.wait_for(lambda: number < len(self.made) or self.ended)  # noqa: B023
                if number == len(self.made):
                    break
                item, self.made[number] = self.made[number], None  # the taker holds what it needs
            yield item
        if self.error:
            raise self.error


class Ahead(Generic[Key, Item]):
    """Items of work(key) for a list of keys that will be asked for in this order, some of them perhaps never.

    At most `depth` keys are waiting or being worked on, apart from the one asked for last. A key that is not among
    those to come is worked on when it is asked for.

    Args:
        work: gives the items of a key; it is iterated in a thread.
        keys: hashable, each once.
        threads: that work at the same time.
        depth: at least 1.
    """

    def __init__(self, work: Callable[[Key], Iterable[Item]], keys: list[Key], threads: int = 1, depth: int = 1):
        self.work, self.depth, self.coming = work, depth, deque(keys)
        self.begun, self.pool = deque(), ThreadPoolExecutor(threads, "ahead")

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *error) -> None:
        self.pool.shutdown(cancel_futures=True)

    def get(self, key: Key) -> Iterator[Item]:
        """The items of a key as they are made; those of keys before it are dropped. Raises what work raised."""
        if not any(key == begun for begun, _, _ in self.begun) and key not in self.coming:
            return iter(self.work(key))
        found = None
        while found is None:
            self._begin(1)
            begun, stream, future = self.begun.popleft()
            if begun == key:
                found = stream
            else:
                future.cancel()
        self._begin(self.depth)
        return iter(found)

    def _begin(self, number: int) -> None:
        """See that this many of the next keys are begun."""
        while len(self.begun) < number and self.coming:
            key = self.coming.popleft()
            stream = Stream(self.work(key))
            self.begun.append((key, stream, self.pool.submit(stream.fill)))
