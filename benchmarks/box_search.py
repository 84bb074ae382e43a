"""Row 11: the best box of a 224 x 224 map against a convolution with ones."""

import numpy as np
import torch

from benchmarks.networks import BOX, SIDE
from benchmarks.result import Result
from benchmarks.saliency_box import box_by_convolution
from benchmarks.timing import both_sides
from models.box_search import best_box

GOAL, MAPS = 20, 20


def measure() -> Result:
    generator = np.random.default_rng(0)
    codes = [generator.integers(0, 2**16, (SIDE, SIDE), dtype=np.uint16) for _ in range(MAPS)]
    maps = [torch.from_numpy(each.astype(np.float32)) for each in codes]
    boxes = [best_box(each, BOX, BOX)[:2] for each in codes]
    # exact in float64: these sums are integers below 2 ** 53
    equal = sum(box == box_by_convolution(each.double()) for box, each in zip(boxes, maps, strict=True))
    times = both_sides(
        lambda: [best_box(each, BOX, BOX) for each in codes],
        lambda: [box_by_convolution(each) for each in maps],
        repeats=9,
    )
    return Result(
        name=f"best box of {BOX} x {BOX} in a map of {SIDE} x {SIDE}, against a convolution with ones",
        ours=times.ours / MAPS,
        theirs=times.theirs / MAPS,
        ratio=times.ratio,
        goal=f"≥ {GOAL}, equal boxes",
        met=times.ratio >= GOAL and equal == MAPS,
        agreement=f"{equal} of {MAPS} boxes equal",
    )
