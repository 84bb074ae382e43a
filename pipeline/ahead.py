"""Work that threads do ahead of who consumes it, in order and bounded. Decoding and resizing let other threads run."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline import profile

Key = TypeVar("Key")
Item = TypeVar("Item")


def buffered(items: Iterator[Item], depth: int = 1) -> Iterator[Item]:
    """Run an iterator in a thread that stays at most `depth` items ahead; what it raises is raised here."""
    nothing = object()
    with ThreadPoolExecutor(1, "buffered") as thread:
        waiting = deque(thread.submit(next, items, nothing) for _ in range(depth))
        try:
            while True:
                with profile.phase("wait"):
                    item = waiting.popleft().result()
                if item is nothing:
                    return
                waiting.append(thread.submit(next, items, nothing))
                yield item
        finally:
            for future in waiting:
                future.cancel()


class Ahead(Generic[Key, Item]):
    """Results of work(key) for a list of keys that will be asked for in this order, some of them perhaps never.

    At most `depth` results are waiting or being made, apart from the one asked for last. A key that is not among
    those to come is worked on when it is asked for.

    Args:
        work: runs in a thread.
        keys: hashable, each once.
        threads: that work at the same time.
        depth: at least 1.
    """

    def __init__(self, work: Callable[[Key], Item], keys: list[Key], threads: int = 1, depth: int = 1):
        self.work, self.depth, self.coming = work, depth, deque(keys)
        self.begun, self.pool = deque(), ThreadPoolExecutor(threads, "ahead")

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *error) -> None:
        self.pool.shutdown(cancel_futures=True)

    def get(self, key: Key) -> Item:
        """The result for a key; those for keys before it are dropped. Raises what work raised."""
        if not any(key == begun for begun, _ in self.begun) and key not in self.coming:
            return self.work(key)
        future = None
        while future is None:
            self._begin(1)
            begun, work = self.begun.popleft()
            if begun == key:
                future = work
            else:
                work.cancel()
        self._begin(self.depth)
        with profile.phase("wait"):
            return future.result()

    def _begin(self, number: int) -> None:
        """See that this many of the next keys are begun."""
        while len(self.begun) < number and self.coming:
            key = self.coming.popleft()
            self.begun.append((key, self.pool.submit(self.work, key)))
