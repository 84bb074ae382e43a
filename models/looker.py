"""The looker: a small head on Base's features that predicts the saliency map, so that no backward pass is needed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.grad_cam import last_block

FINER = 4  # cells of the predicted map along a side of a cell of the features
HIDDEN = 64
EPOCHS, BATCH_SIZE, LEARNING_RATE = 30, 64, 1e-3


class Looker(nn.Module):
    """Features of Base's last block, float32 (B, C, h, w), to logits of the cells of a map, (B, FINER h, FINER w).

    A layer of 1 x 1 and one of 3 x 3, whose channels become cells (pixel shuffle, Shi et al. 2016).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.hidden = nn.Conv2d(channels, HIDDEN, 1)
        self.cells = nn.Conv2d(HIDDEN, FINER**2, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits of the cells."""
        hidden = self.hidden((features - self.mean) / self.std).relu()
        return F.pixel_shuffle(self.cells(hidden), FINER)[:, 0]

    @torch.no_grad()
    def maps(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Predict maps of the input frame, float32 (B, H, W): the cells' softmax, enlarged bilinearly."""
        cells = self(features).flatten(1).softmax(1).unflatten(1, [FINER * length for length in features.shape[2:]])
        return F.interpolate(cells[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


@contextmanager
def block_features(network: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Listen to a network in eval mode; yield a function that returns what its last block gave in the last pass.

    That is the mean over time of its output, float32 (B, C, h, w), detached. NetworkError where it names no last block.
    """
    outputs = []

    def listen(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        outputs[:] = [output.detach()]

    def mean_over_time() -> Tensor:
        block = outputs[0].float()
        return (block.permute(0, 4, 1, 2, 3) if network.channels_last else block).mean(2)

    handle = network.get_submodule(last_block(network, "boxes looker need")).register_forward_hook(listen)
    try:
        yield mean_over_time
    finally:
        handle.remove()


def cell_shares(maps: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return which share of a map, (B, H, W), lies in each of its cells: float32 (B, rows, columns); 0 of an empty map.

    Cells that do not divide the map overlap by a pixel, and are means of theirs.
    """
    means = F.adaptive_avg_pool2d(maps.float()[:, None], cells)[:, 0]
    return means / means.sum((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def train_looker(features: Tensor, shares: Tensor, seed: int) -> tuple[Looker, float]:
    """Train a looker with Adam to give each cell its share of the map: cross-entropy, mean over clips.

    Args:
        features: (N, C, h, w), of any float type, on the CPU. shares: float32 (N, FINER h, FINER w), see `cell_shares`.
    Returns:
        the looker in eval mode, and the mean loss of its last epoch minus the entropy of the shares, nats: the
        Kullback-Leibler divergence, 0 where it predicts each map exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        looker = Looker(features.shape[1])
    looker.mean.copy_(features.float().mean((0, 2, 3))[:, None, None])
    looker.std.copy_(features.float().std((0, 2, 3))[:, None, None].clamp_min(1e-3))
    optimiser = torch.optim.Adam(looker.parameters(), LEARNING_RATE)
    loss_sum = 0.0
    for _ in range(EPOCHS):
        loss_sum = 0.0
        for rows in torch.randperm(len(features), generator=generator).split(BATCH_SIZE):
            predicted = looker(features[rows].float()).flatten(1).log_softmax(1)
            wanted = shares[rows].flatten(1)
            loss = F.kl_div(predicted, wanted, reduction="batchmean")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss_sum += float(loss.detach()) * len(rows)
    return looker.eval(), loss_sum / len(features)
