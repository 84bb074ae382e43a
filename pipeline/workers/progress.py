"""Progress of a long job: a bar with rate and remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from pipeline.workers.rank import is_first_process

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 15.0


def progress(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    """Pass items on and show, on standard error, how many of `total` are done, their rate and the remaining time.

    Of the processes that torchrun starts, only the first one shows anything.
    """
    if not is_first_process():
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=unit, dynamic_ncols=True)
        return
    start = printed = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if number == total or now - printed > SECONDS_BETWEEN_LINES:
            printed = now
            rate = number / max(now - start, 1e-9)
            rest = f"{(total - number) / rate:.0f} s left" if number < total else f"done in {now - start:.1f} s"
            print(f"{label}: {number}/{total} {unit}, {rate:.3g} {unit}/s, {rest}", file=sys.stderr, flush=True)
