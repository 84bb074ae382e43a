"""Row 1: logits, saliency map and box of one clip against the plain network, at T_in = 16 and 32."""

from benchmarks import look
from benchmarks.networks import both_networks, clip
from benchmarks.result import Result
from benchmarks.timing import interleaved, medians, minima
from models.frozen.fold import fold

GOALS = {16: 1.7, 32: 1.5}


def measure() -> Result:
    network, plain = both_networks()
    folded = fold(network)
    times, extra, differences = {}, {}, {}
    for frames, repeats in ((16, 9), (32, 5)):
        video = clip(frames)
        differences[frames] = look.agreement(folded, plain, video)
        sides = {"ours": lambda v=video: look.ours(folded, v), "theirs": lambda v=video: look.plainly(plain, v)}
        seconds = interleaved(sides, repeats)
        times[frames], least = medians(seconds), minima(seconds)
        extra[f"ratio_of_minima_{frames}"] = least["theirs"] / least["ours"]
    ratios = {frames: side["theirs"] / side["ours"] for frames, side in times.items()}
    exact = all(look.is_exact(found) for found in differences.values())
    return Result(
        name="saliency map and box of a clip of 16 frames, against nn.Conv3d and autograd",
        **times[16],
        ratio=ratios[16],
        goal="≥ 1.7; at 32 frames ≥ 1.5",
        met=exact and all(ratios[frames] >= goal for frames, goal in GOALS.items()),
        agreement="; ".join(f"{frames} frames: {look.in_words(found)}" for frames, found in differences.items()),
        extra={"ours_32": times[32]["ours"], "theirs_32": times[32]["theirs"], "ratio_32": ratios[32], **extra},
    )
