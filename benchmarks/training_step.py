"""Row 14: a training step (forward, backward, SGD) on a clip of 16 frames, against nn.Conv3d and BatchNorm3d."""

import torch
from torch import Tensor, nn

from benchmarks.networks import CLASSES, both_networks, clip
from benchmarks.result import Result
from benchmarks.timing import interleaved, medians, minima
from models.losses import charades_loss

GOAL, TOLERANCE = 1.3, 1e-3


def measure() -> Result:
    networks = dict(zip(("ours", "theirs"), both_networks(), strict=True))
    video = clip(16)
    actions = (torch.rand(1, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    steps, gradients = {}, {}
    for name, network in networks.items():
        network.train()
        if hasattr(network, "dropout"):
            network.dropout = nn.Identity()  # random; the plain network has none
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
        steps[name] = lambda network=network, optimizer=optimizer: _step(network, optimizer, video, actions)
        steps[name]()
        gradients[name] = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    difference = float((gradients["ours"] - gradients["theirs"]).norm() / gradients["theirs"].norm())
    seconds = interleaved(steps, repeats=7)
    times, least = medians(seconds), minima(seconds)
    ratio = times["theirs"] / times["ours"]
    return Result(
        name="training step on a clip of 16 frames, against nn.Conv3d and BatchNorm3d",
        **times,
        ratio=ratio,
        goal=f"≥ {GOAL}",
        met=ratio >= GOAL and difference <= TOLERANCE,
        agreement=f"first gradients to {difference:.0e} (relative L2, all parameters)",
        extra={"ratio_of_minima": least["theirs"] / least["ours"]},
    )


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, video: Tensor, actions: Tensor):
    """One step on a clip (1, T, H, W, 3) that shows the actions (1, C) in all of its frames."""
    optimizer.zero_grad(set_to_none=True)
    logits = network(video)  # 1, T_out, C
    charades_loss(logits, actions, actions[:, None].expand(-1, video.shape[1], -1)).backward()
    optimizer.step()
