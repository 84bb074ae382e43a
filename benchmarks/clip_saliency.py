"""Row 1: logits, saliency map and box of one clip against the plain network, at T_in = 16 and 32."""

from benchmarks import saliency_box
from benchmarks.networks import both_networks, clip
from benchmarks.result import Result
from benchmarks.timing import both_sides
from models.frozen.fold import fold

GOALS = {16: 1.7, 32: 1.5}


def measure() -> Result:
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
        met=exact and all(times[frames].ratio >= goal for frames, goal in GOALS.items()),
        agreement="; ".join(f"{frames} frames: {saliency_box.words(found)}" for frames, found in differences.items()),
        extra={f"{name}_32": getattr(long, name) for name in ("ours", "theirs", "ratio")}
        | {f"ratio_of_minima_{frames}": one.ratio_of_minima for frames, one in times.items()},
    )
