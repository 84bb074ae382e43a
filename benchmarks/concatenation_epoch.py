"""Row 8: an epoch of temporal concatenation from the caches, against the paper's step and our best on the fly."""

from benchmarks.epochs import measure_fusion
from benchmarks.result import Result


def measure() -> Result:
    return measure_fusion(
        "concat", "concatenation epoch from the caches, T_in = 16, against the paper's step", 1.4, 1.15
    )
