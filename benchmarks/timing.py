"""Seconds of functions that are measured in turn, so that a machine that slows down slows all of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Times:
    """Seconds of both sides of a row.

    Attributes:
        ours, theirs: medians.
        ratio: theirs / ours.
        ratio_of_minima: the same of the least seconds; on a shared machine these are closer to what the code costs.
    """

    ours: float
    theirs: float
    ratio: float
    ratio_of_minima: float


def both_sides(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> Times:
    """Times of two functions, measured in turn."""
    seconds = interleaved({"ours": ours, "theirs": theirs}, repeats)
    (a, b), (least_a, least_b) = (map(function, seconds.values()) for function in (median, min))
    return Times(a, b, b / a, least_b / least_a)


def interleaved(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run the functions one after the other, `repeats` times round; the seconds of each, without a first warm-up."""
    seconds = {name: [] for name in functions}
    for turn in range(1 + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds
