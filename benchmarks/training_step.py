"""Rows 14 and 22: a training step (forward, backward, SGD) on a clip of 16 frames, against the plain network."""

import copy

import torch
from torch import Tensor, nn

from benchmarks.networks import CLASSES, both_networks, clip
from benchmarks.result import Result, of_times
from benchmarks.timing import both_sides
from models.losses import charades_loss
from models.precision import Precision, tf32

GOAL, TOLERANCE = 1.3, 1e-3


def measure(compiled: bool = False) -> Result:
    """Row 14, against nn.Conv3d and BatchNorm3d; compiled: against torch.compile of these."""
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
        if compiled and name == "theirs":
            network.compile(dynamic=False)
        steps[name] = lambda network=network, optimizer=optimizer: step(network, optimizer, video, actions)
    times = both_sides(steps["ours"], steps["theirs"], repeats=7)
    goal = 1 if compiled else GOAL
    return of_times(
        times,
        name=f"training step on a clip of 16 frames, against {'torch.compile of ' * compiled}nn.Conv3d and BatchNorm3d",
        goal=f"≥ {goal}",
        met=times.ratio >= goal and distances["ours"] <= max(TOLERANCE, 2 * distances["theirs"]),
        agreement="gradients of all parameters, from float64: {ours:.0e}, theirs {theirs:.0e}".format(**distances),
    )


def against_compiled() -> Result:
    """Row 22."""
    return measure(compiled=True)


def _gradients(network: nn.Module, video: Tensor, actions: Tensor) -> Tensor:
    """The loss's gradient with respect to all parameters, as one vector in float64."""
    loss = _loss(network.train(), video, actions)
    return torch.cat([value.flatten().double() for value in torch.autograd.grad(loss, list(network.parameters()))])


def step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    video: Tensor,
    actions: Tensor,
    precision: Precision = "float32",
) -> None:
    """One step on clips (B, T, H, W, 3) that show their actions (B, C) in all of their frames."""
    optimizer.zero_grad(set_to_none=True)
    with tf32(precision == "tf32"):
        with torch.autocast(video.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = _loss(network, video, actions)
        loss.backward()
    optimizer.step()


def _loss(network: nn.Module, video: Tensor, actions: Tensor) -> Tensor:
    return charades_loss(network(video).to(video.dtype), actions, actions[:, None].expand(-1, video.shape[1], -1))
