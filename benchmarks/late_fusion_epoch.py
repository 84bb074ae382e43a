"""Row 7: an epoch of late fusion from the caches, against the paper's step and against our best on the fly."""

from benchmarks.epochs import measure_fusion
from benchmarks.result import Result


def measure() -> Result:
    return measure_fusion("late", "late-fusion epoch from the caches, T_in = 16, against the paper's step", 2.2, 1.4)
