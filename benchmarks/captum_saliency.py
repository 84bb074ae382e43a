"""Row 2: saliency map and box of a clip of 16 frames against Captum's `Saliency` on the plain network."""

import torch

from benchmarks import saliency_box
from benchmarks.networks import both_networks, clip
from benchmarks.result import Result, of_times
from benchmarks.timing import both_sides
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
        return saliency, saliency_box.box_by_convolution(saliency)

    differences = saliency_box.agreement(folded, plain, video)
    map_difference = float((theirs()[0] - saliency_box.plainly(plain, video).saliency).norm())
    times = both_sides(lambda: saliency_box.ours(folded, video), theirs, repeats=7)
    return of_times(
        times,
        name="saliency map and box of a clip of 16 frames, against Captum",
        goal=f"≥ {GOAL}",
        met=times.ratio >= GOAL and saliency_box.is_exact(differences) and map_difference == 0,
        agreement=f"{saliency_box.words(differences)}; Captum's map is autograd's to {map_difference:.0e}",
    )
