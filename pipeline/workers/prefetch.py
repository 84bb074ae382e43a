"""Work done ahead in threads, in order and bounded. Decoding and resizing let other threads run meanwhile."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Generic, TypeVar

from pipeline.workers import phases

Key = TypeVar("Key")
Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterator[Item], depth: int = 1) -> Iterator[Item]:
    """Run an iterator in a thread, at most `depth` items ahead; raise here what it raises."""
    with ThreadPoolExecutor(1, "prefetch") as thread:
        waiting = deque(thread.submit(next, items, _END) for _ in range(depth))
        try:
            while True:
                with phases.phase("wait"):
                    item = waiting.popleft().result()
                if item is _END:
                    return
                waiting.append(thread.submit(next, items, _END))
                yield item
        finally:
            for future in waiting:
                future.cancel()


class PrefetchedKeys(Generic[Key, Item]):
    """Computes work(key) in threads for keys in the order in which they will be asked for; some may never be.

    At most `depth` keys, which is at least 1, are waiting or being worked on, apart from the one asked for last. The
    items that work gives are iterated in a thread. A key is hashable and comes once.
    """

    def __init__(self, work: Callable[[Key], Iterable[Item]], keys: list[Key], threads: int = 1, depth: int = 1):
        self.work, self.depth, self.coming = work, depth, deque(keys)
        self.begun, self.pool = deque(), ThreadPoolExecutor(threads, "prefetch")

    def __enter__(self) -> "PrefetchedKeys":
        return self

    def __exit__(self, *error) -> None:
        self.pool.shutdown(cancel_futures=True)

    def get(self, key: Key) -> Iterator[Item]:
        """Iterate over the items of a key as they are made; raise, after them, what work raised.

        Keys before it are dropped. A key that is not among those to come is worked on now.
        """
        if not any(key == begun for begun, _, _ in self.begun) and key not in self.coming:
            return iter(self.work(key))
        while True:
            self._begin(1)
            begun, queue, future = self.begun.popleft()
            if begun == key:
                self._begin(self.depth)
                return _drain(queue, future)
            future.cancel()

    def _begin(self, number: int) -> None:
        """Start work until this many of the next keys are begun."""
        while len(self.begun) < number and self.coming:
            key, queue = self.coming.popleft(), SimpleQueue()
            self.begun.append((key, queue, self.pool.submit(_fill, queue, self.work(key))))


def _fill(queue: SimpleQueue, items: Iterable[Item]) -> None:
    """Put every item, and at the end, also after an error, _END."""
    try:
        for item in items:
            queue.put(item)
    finally:
        queue.put(_END)


def _drain(queue: SimpleQueue, filled: Future) -> Iterator[Item]:
    """Yield what `_fill` puts, as it comes; raise what it raised."""
    while True:
        with phases.phase("wait"):
            item = queue.get()
        if item is _END:
            return filled.result()
        yield item
