"""Row 2: saliency map and box of a clip of 16 frames against Captum's `Saliency` on the plain network."""

import torch

from benchmarks import look
from benchmarks.networks import both_networks, clip
from benchmarks.result import Result
from benchmarks.timing import interleaved, medians, minima
from models.frozen.fold import fold
from models.losses import entropy

GOAL = 1.7


def measure() -> Result:
    from captum.attr import Saliency  # of the extra `bench`

    network, plain = both_networks()
    folded, video = fold(network), clip(16)
    captum = Saliency(lambda frames: entropy(plain(frames)))

    def theirs() -> tuple[torch.Tensor, tuple[int, int]]:
        gradient = captum.attribute(video.clone().requires_grad_(), abs=False).detach()
        saliency = gradient.norm(dim=-1).amax(1)[0]
        return saliency, look.box_by_convolution(saliency)

    differences = look.agreement(folded, plain, video)
    map_difference = float((theirs()[0] - look.plainly(plain, video).saliency).norm())
    seconds = interleaved({"ours": lambda: look.ours(folded, video), "theirs": theirs}, repeats=7)
    times, least = medians(seconds), minima(seconds)
    ratio = times["theirs"] / times["ours"]
    return Result(
        name="saliency map and box of a clip of 16 frames, against Captum",
        **times,
        ratio=ratio,
        goal=f"≥ {GOAL}",
        met=ratio >= GOAL and look.is_exact(differences) and map_difference == 0,
        agreement=f"{look.in_words(differences)}; Captum's map is autograd's to {map_difference:.0e}",
        extra={"ratio_of_minima": least["theirs"] / least["ours"]},
    )
