"""Row 14: a training step (forward, backward, SGD) on a clip of 16 frames, against nn.Conv3d and BatchNorm3d."""

import copy

import torch
from torch import Tensor, nn

from benchmarks.networks import CLASSES, both_networks, clip
from benchmarks.result import Result, of_times
from benchmarks.timing import both_sides
from models.losses import charades_loss

GOAL, TOLERANCE = 1.3, 1e-3


def measure() -> Result:
    networks = dict(zip(("ours", "theirs"), both_networks(), strict=True))
    video = clip(16)
    actions = (torch.rand(1, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    exact = _gradients(copy.deepcopy(networks["theirs"]).double(), video.double(), actions.double())
    steps, distances = {}, {}
    for name, network in networks.items():
        if hasattr(network, "dropout"):
            network.dropout = nn.Identity()  # random; the plain network has none
        distances[name] = float((_gradients(network, video, actions) - exact).norm() / exact.norm())
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
        steps[name] = lambda network=network, optimizer=optimizer: _step(network, optimizer, video, actions)
    times = both_sides(steps["ours"], steps["theirs"], repeats=7)
    return of_times(
        times,
        name="training step on a clip of 16 frames, against nn.Conv3d and BatchNorm3d",
        goal=f"≥ {GOAL}",
        met=times.ratio >= GOAL and distances["ours"] <= max(TOLERANCE, 2 * distances["theirs"]),
        agreement="gradients of all parameters, from float64: {ours:.0e}, theirs {theirs:.0e}".format(**distances),
    )


def _gradients(network: nn.Module, video: Tensor, actions: Tensor) -> Tensor:
    """The loss's gradient with respect to all parameters, as one vector in float64."""
    loss = _loss(network.train(), video, actions)
    return torch.cat([value.flatten().double() for value in torch.autograd.grad(loss, list(network.parameters()))])


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, video: Tensor, actions: Tensor):
    optimizer.zero_grad(set_to_none=True)
    _loss(network, video, actions).backward()
    optimizer.step()


def _loss(network: nn.Module, video: Tensor, actions: Tensor) -> Tensor:
    """On a clip (1, T, H, W, 3) that shows the actions (1, C) in all of its frames."""
    return charades_loss(network(video), actions, actions[:, None].expand(-1, video.shape[1], -1))
