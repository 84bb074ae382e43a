"""Row 3: how much of the machine's own matrix-product rate a clip's saliency reaches, at T_in = 16."""

from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import saliency_box
from benchmarks.machine import SIZES, product_flops
from benchmarks.networks import both_networks, clip
from benchmarks.result import Result
from benchmarks.timing import interleaved
from models.frozen.fold import fold

GOAL = 0.75


def measure() -> Result:
    network, plain = both_networks()
    folded, video = fold(network), clip(16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain(video)
    flops = 2 * counter.get_total_flops()  # the backward pass to the input needs the forward's multiply-adds again
    rates = {size: [] for size in SIZES}

    def products():
        for size in SIZES:
            rates[size].append(product_flops(size))

    seconds = interleaved({"ours": lambda: saliency_box.ours(folded, video), "products": products}, repeats=9)["ours"]
    best = max(median(values) for values in rates.values())
    ours = flops / median(seconds)
    return Result(
        name="saliency map and box of a clip of 16 frames, against the machine's matrix product",
        ours=ours / 1e9,
        theirs=best / 1e9,
        unit="GFLOP/s",
        ratio=ours / best,
        goal=f"≥ {GOAL}",
        met=ours / best >= GOAL,
        agreement=f"{flops / 2e9:.1f} GFLOP a pass, counted on the plain network",
        extra={"ratio_of_best": flops / min(seconds) / max(map(max, rates.values()))},
    )
