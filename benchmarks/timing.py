"""Seconds of several functions, measured in turn so that a machine that slows down slows all of them."""

import time
from collections.abc import Callable
from statistics import median


def interleaved(functions: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run the functions one after the other, `repeats` times round; the seconds of each, without the warm-up."""
    seconds = {name: [] for name in functions}
    for turn in range(warm_up + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in seconds.items()}


def minima(seconds: dict[str, list[float]]) -> dict[str, float]:
    """On a machine that is shared, closer to what the code costs than the medians are."""
    return {name: min(values) for name, values in seconds.items()}
