"""The looker on features whose meaning is known: it finds the place, the right way round."""

import numpy as np
import pytest
import torch
from torch import nn

from models.looker import FINER, Looker, block_features, cell_shares, train_looker
from models.own_network import NetworkError

GRID = 4, 6  # rows, columns of the features
SIZE = 32, 48


def clips(number, seed):
    """Features with one bright cell, whose second channel says in which quarter of it the map's spot lies; the maps."""
    rng = np.random.default_rng(seed)
    features, maps = torch.zeros(number, 3, *GRID), torch.zeros(number, *SIZE)
    places = np.stack([rng.integers(0, GRID[0], number), rng.integers(0, GRID[1], number)], 1)
    lower = rng.integers(0, 2, number)
    for one, ((row, column), low) in enumerate(zip(places, lower, strict=True)):
        features[one, 0, row, column] = 5
        features[one, 1, row, column] = 5 * low
        top, left = 8 * row + 4 * int(low), 8 * column
        maps[one, top : top + 4, left : left + 4] = 1
    return features, maps, places * 8 + np.stack([4 * lower, 0 * lower], 1) + 1.5


def test_it_learns_where_the_map_is():
    features, maps, _ = clips(1500, 0)
    looker, divergence = train_looker(features, cell_shares(maps, (16, 24)), 0)
    unseen, _, centres = clips(100, 1)
    with torch.no_grad():
        found = looker.maps(unseen, SIZE)
    assert found.shape == (100, *SIZE) and divergence < 0.3
    peaks = np.stack(np.unravel_index(found.flatten(1).argmax(1).numpy(), SIZE), 1)
    assert np.abs(peaks - centres).max() <= 2


def test_shares_of_cells_by_hand():
    maps = torch.zeros(2, 4, 6)
    maps[0, 0, 5], maps[0, 1, 4], maps[0, 3, 0] = 2, 1, 1  # the first two in one cell
    shares = cell_shares(maps, (2, 3))
    assert shares[0].tolist() == [[0, 0, 0.75], [0.25, 0, 0]]
    assert not shares[1].any()  # an empty map teaches nothing


@pytest.fixture
def by_hand():
    """A looker on one channel whose logit of the cell at (row, column) of a feature's 4 x 4 is ln(1 + 4 row + column).

    In the first cell, its hidden unit (x - 1) / 2 is added.
    """
    looker = Looker(1).eval()
    for weights in looker.parameters():
        nn.init.zeros_(weights)
    looker.mean.fill_(1)
    looker.std.fill_(2)
    with torch.no_grad():
        looker.hidden.weight[0] = 1
        looker.cells.weight[0, 0, 1, 1] = 1
        looker.cells.bias.copy_(torch.arange(1, 17).log())
    return looker


def test_logits_and_maps_by_hand(by_hand):
    """Shares of the cells are k / 136; between the centres of two cells the map is interpolated."""
    features = torch.tensor([[[[7.0, -5.0]]]])  # hidden 3, and none
    with torch.no_grad():
        logits = by_hand(features)
    expected = torch.arange(1, 17).reshape(4, 4).log().repeat(1, 2)
    expected[0, 0] = 3
    torch.testing.assert_close(logits, expected[None])
    cells = torch.arange(1, 17).reshape(4, 4) / 136
    (found,) = by_hand.maps(torch.ones(1, 1, 1, 1), (8, 8))
    assert found[0, 0] == pytest.approx(float(cells[0, 0])) and found[7, 0] == pytest.approx(float(cells[3, 0]))
    assert found[0, 1] == pytest.approx(float(0.75 * cells[0, 0] + 0.25 * cells[0, 1]))
    assert found[1, 0] == pytest.approx(float(0.75 * cells[0, 0] + 0.25 * cells[1, 0]))


def test_the_divergence_is_the_mean_over_clips(monkeypatch):
    """At a rate of 0 it is that of the weights that the seed gives; 70 clips are a batch and six."""
    monkeypatch.setattr("models.looker.LEARNING_RATE", 0.0)
    features, maps, _ = clips(70, 0)
    features[:, 2] = 3  # without a deviation
    shares = cell_shares(maps, (16, 24))
    looker, divergence = train_looker(features, shares, 0)
    torch.testing.assert_close(looker.mean.flatten(), features.mean((0, 2, 3)))
    torch.testing.assert_close(looker.std.flatten()[:2], features.std((0, 2, 3))[:2])
    with torch.no_grad():
        predicted = looker(features).flatten(1).softmax(1)
    wanted = shares.flatten(1)
    found = torch.where(wanted > 0, wanted * (wanted / predicted).log(), 0).sum(1)
    assert divergence == pytest.approx(float(found.mean()), rel=1e-4)
    other, _ = train_looker(features, shares, 1)
    assert not torch.equal(looker.cells.weight, other.cells.weight)
    monkeypatch.undo()
    first, again = (train_looker(features, shares, 0)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["cells.weight"], looker.cells.weight)


class Network(nn.Module):
    last_block, channels_last = "body", False

    def __init__(self):
        super().__init__()
        self.body = nn.Conv3d(3, 5, 1)

    def forward(self, video):
        return self.body(video.permute(0, 4, 1, 2, 3)).mean((3, 4)).transpose(1, 2)


def test_features_are_the_mean_over_time_of_the_last_pass():
    network, video = Network().eval(), torch.rand(2, 7, 4, 6, 3)
    with block_features(network) as features:
        network(torch.rand(2, 7, 4, 6, 3))
        logits = network(video)
        found = features()
    assert found.shape == (2, 5, 4, 6) and not found.requires_grad
    torch.testing.assert_close(found.mean((2, 3)), logits.mean(1))
    assert not network.body._forward_hooks
    network.channels_last = True  # its output is said to be (B, T, H, W, C)
    with block_features(network) as features:
        network(video)
        assert features().shape == (2, 6, 7, 4)
    network.last_block = ""
    with pytest.raises(NetworkError, match=r"boxes looker need .* last_block"), block_features(network):
        pass
    assert Looker(5)(found).shape == (2, 4 * FINER, 6 * FINER)
