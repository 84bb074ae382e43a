"""Work ahead of its consumer: in order, bounded, items as soon as they are there, errors in their place."""

import threading

import pytest

from pipeline.workers.prefetch import PrefetchedKeys


def test_items_come_as_they_are_made_and_the_error_after_them():
    """The maker waits until its first item was taken: were items handed over all at once, nothing would ever move."""
    taken = threading.Event()

    def work(key):
        yield key, 0
        assert taken.wait(300), "the first item was not taken while the second was still to come"
        yield key, 1
        raise LookupError(key)

    with PrefetchedKeys(work, ["a"]) as ahead:
        items = ahead.get("a")
        assert next(items) == ("a", 0)
        taken.set()
        assert next(items) == ("a", 1)
        with pytest.raises(LookupError, match="a"):
            next(items)


def test_order_depth_and_keys_that_nobody_asks_for():
    begun = []

    def work(key):
        begun.append(key)
        yield key * 10

    with PrefetchedKeys(work, [1, 2, 3, 4, 5], threads=1, depth=2) as ahead:
        assert list(ahead.get(1)) == [10]
        assert list(ahead.get(4)) == [40]  # 2 and 3 were not wanted
        assert list(ahead.get(7)) == [70]  # never announced: made when it is asked for
        ahead.pool.submit(int).result()  # its only thread has done all that was asked of it before
    assert 5 in begun and begun.index(1) == 0  # the one after 4 was worked on ahead


def test_no_more_than_depth_is_made_ahead():
    made, together = [], threading.Barrier(3)

    def work(key):
        made.append(key)
        yield key

    with PrefetchedKeys(work, list(range(9)), threads=3, depth=3) as ahead:
        assert list(ahead.get(0)) == [0]
        for idle in [ahead.pool.submit(together.wait) for _ in range(3)]:
            idle.result()  # all three threads are here, so what was asked of them before is done
        assert set(made) == {0, 1, 2, 3}
        assert list(ahead.get(1)) == [1]
