"""Row 4: the maps of two objectives at once against the map of one, T_in = 16."""

from benchmarks.networks import both_networks, clip
from benchmarks.result import Result
from benchmarks.timing import both_sides
from models.frozen.fold import fold
from models.losses import entropy, max_logit
from models.saliency import input_saliency

GOAL = 1.7


def measure() -> Result:
    folded, video = fold(both_networks()[0]), clip(16)
    both = {"entropy": entropy, "max_logit": max_logit}
    maps = input_saliency(folded, video, both)[1]
    alone = {name: input_saliency(folded, video, {name: both[name]})[1][name] for name in both}
    difference = max(float((maps[name] - alone[name]).norm() / alone[name].norm()) for name in both)
    times = both_sides(
        lambda: input_saliency(folded, video, both),
        lambda: input_saliency(folded, video, {"entropy": entropy}),
        repeats=9,
    )
    return Result(
        name="saliency maps of two objectives at once, against one",
        ours=times.ours,
        theirs=times.theirs,
        ratio=1 / times.ratio,
        goal=f"≤ {GOAL}",
        met=1 / times.ratio <= GOAL and difference <= 1e-3,
        agreement=f"maps to {difference:.0e} (relative) of those made alone",
        extra={"ratio_of_minima": 1 / times.ratio_of_minima},
    )
