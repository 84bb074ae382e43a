"""The table: which module measures which row; each is imported only when its row runs."""

from importlib import import_module

from benchmarks.result import Result

ROWS = {
    1: "clip_saliency",
    2: "captum_saliency",
    3: "product_rate",
    4: "two_objectives",
    5: "stage_one",
    6: "frames_decoded",
    7: "late_fusion_epoch",
    8: "concatenation_epoch",
    9: "reading_volumes",
    10: "volume_bytes",
    11: "box_search",
    12: "large_index",
    13: "peak_memory",
    14: "training_step",
}


def measure(row: int) -> Result:
    """Both sides of a row: the function `measure` of its module."""
    return import_module(f"benchmarks.{ROWS[row]}").measure()
