"""Rows 1 to 4: logits, saliency map and box of one clip, against other ways to get them and against the machine."""

from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import saliency_box
from benchmarks.machine import SIZES, product_flops
from benchmarks.networks import both_networks, clip
from benchmarks.result import Result, of_times
from benchmarks.timing import both_sides, interleaved
from models.frozen.fold import fold
from models.losses import max_logit, negative_entropy
from models.saliency import input_saliency

AUTOGRAD_GOALS = {16: 1.7, 32: 1.5}  # by frames
CAPTUM_GOAL, PRODUCT_GOAL, OBJECTIVES_GOAL = 1.7, 0.75, 1.7


def against_autograd() -> Result:
    """Row 1: against nn.Conv3d and autograd, at T_in = 16 and 32."""
    network, plain = both_networks()
    folded = fold(network)
    times, differences = {}, {}
    for frames, repeats in ((16, 9), (32, 5)):
        video = clip(frames)
        differences[frames] = saliency_box.agreement(folded, plain, video)
        times[frames] = both_sides(
            lambda video=video: saliency_box.ours(folded, video),
            lambda video=video: saliency_box.plainly(plain, video),
            repeats,
        )
    exact = all(saliency_box.is_exact(found) for found in differences.values())
    short, long = times[16], times[32]
    return Result(
        name="saliency map and box of a clip of 16 frames, against nn.Conv3d and autograd",
        ours=short.ours,
        theirs=short.theirs,
        ratio=short.ratio,
        goal="≥ 1.7; at 32 frames ≥ 1.5",
        met=exact and all(times[frames].ratio >= goal for frames, goal in AUTOGRAD_GOALS.items()),
        agreement="; ".join(f"{frames} frames: {saliency_box.words(found)}" for frames, found in differences.items()),
        extra={f"{name}_32": getattr(long, name) for name in ("ours", "theirs", "ratio")}
        | {f"ratio_of_minima_{frames}": one.ratio_of_minima for frames, one in times.items()},
    )


def against_captum() -> Result:
    """Row 2: against Captum's `Saliency` on the plain network, T_in = 16."""
    from captum.attr import Saliency  # of the extra `bench`

    network, plain = both_networks()
    folded, video = fold(network), clip(16)
    captum = Saliency(lambda frames: negative_entropy(plain(frames)))

    def theirs() -> tuple[torch.Tensor, tuple[int, int]]:
        gradient = captum.attribute(video.clone().requires_grad_(), abs=False).detach()
        saliency = gradient.norm(dim=-1).amax(1)[0]
        return saliency, saliency_box.box_by_convolution(saliency)

    differences = saliency_box.agreement(folded, plain, video)
    map_difference = float((theirs()[0] - saliency_box.plainly(plain, video).saliency).norm())
    times = both_sides(lambda: saliency_box.ours(folded, video), theirs, repeats=7)
    return of_times(
        times,
        name="saliency map and box of a clip of 16 frames, against Captum",
        goal=f"≥ {CAPTUM_GOAL}",
        met=times.ratio >= CAPTUM_GOAL and saliency_box.is_exact(differences) and map_difference == 0,
        agreement=f"{saliency_box.words(differences)}; Captum's map is autograd's to {map_difference:.0e}",
    )


def against_matrix_product() -> Result:
    """Row 3: how much of the machine's own matrix-product rate is reached, T_in = 16."""
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
        goal=f"≥ {PRODUCT_GOAL}",
        met=ours / best >= PRODUCT_GOAL,
        agreement=f"{flops / 2e9:.1f} GFLOP a pass, counted on the plain network",
        extra={"ratio_of_best": flops / min(seconds) / max(map(max, rates.values()))},
    )


def of_two_objectives() -> Result:
    """Row 4: the maps of two objectives at once against the map of one, T_in = 16."""
    folded, video = fold(both_networks()[0]), clip(16)
    both = {"entropy": negative_entropy, "max_logit": max_logit}
    maps = input_saliency(folded, video, both)[1]
    alone = {name: input_saliency(folded, video, {name: both[name]})[1][name] for name in both}
    difference = max(float((maps[name] - alone[name]).norm() / alone[name].norm()) for name in both)
    times = both_sides(
        lambda: input_saliency(folded, video, both),
        lambda: input_saliency(folded, video, {"entropy": negative_entropy}),
        repeats=9,
    )
    return Result(
        name="saliency maps of two objectives at once, against one",
        ours=times.ours,
        theirs=times.theirs,
        ratio=1 / times.ratio,
        goal=f"≤ {OBJECTIVES_GOAL}",
        met=1 / times.ratio <= OBJECTIVES_GOAL and difference <= 1e-3,
        agreement=f"maps to {difference:.0e} (relative) of those made alone",
        extra={"ratio_of_minima": 1 / times.ratio_of_minima},
    )
