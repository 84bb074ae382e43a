"""Grad-CAM on a network whose maps are known, and on real ones without a trace left."""

import pytest
import torch
from torch import nn

from models.backbones import PerTime, build
from models.frozen.fold import fold
from models.grad_cam import grad_cam
from models.losses import negative_entropy


class Plain(nn.Module):
    """Features are the colours, logits their mean over space."""

    last_block, channels_last = "layer1", False

    def __init__(self, pool: int = 1):
        super().__init__()
        self.layer1 = nn.AvgPool3d((1, pool, pool))

    def forward(self, video):
        return self.layer1(video.permute(0, 4, 1, 2, 3)).mean((3, 4)).transpose(1, 2)  # B, T, 3


class ChannelsLast(nn.Module):
    """(B, C, T, H, W) to (B, T, H, W, C)."""

    def forward(self, x):
        return x.permute(0, 2, 3, 4, 1)


def channels_last() -> PerTime:
    """The same function as Plain, with channels last."""
    network = nn.Module()
    network.last, network.head = ChannelsLast(), nn.Linear(3, 3, bias=False)
    nn.init.eye_(network.head.weight)
    return PerTime(network, ("last",), "head", (0, 0, 0), (1, 1, 1), channels_last=True)


def difference(logits):
    """Red of the first frame alone, as much as if it were of all frames, minus twice the green."""
    return logits.shape[1] * logits[:, 0, 0] - 2 * logits[..., 1].sum(1)


@pytest.mark.parametrize("make", [Plain, channels_last])
def test_by_hand(make):
    """Over space and time the gradient is 1, -2 and 0 over the number of pixels: the weight of each channel."""
    video = torch.rand(2, 3, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    video[0, :, 1, 5] = torch.tensor([0.0, 1.0, 1.0])  # pushes down in every frame
    video[0, 1, 3, 2] = torch.tensor([1.0, 0.0, 0.0])
    logits, maps = grad_cam(make().eval(), video, {"difference": difference})
    found = maps["difference"]
    assert found.shape == (2, 4, 6)
    expected = (video[..., 0] - 2 * video[..., 1]).clamp(min=0).amax(1) / 24
    torch.testing.assert_close(found, expected)
    assert found[0, 1, 5] == 0
    assert found[0].argmax() == 3 * 6 + 2
    torch.testing.assert_close(logits, video.mean((2, 3)))


def test_small_features_are_enlarged_to_the_input():
    video = torch.zeros(1, 2, 4, 6, 3)
    video[0, 1, 2:, 4:, 0] = 1  # one cell of 2 x 3, bottom right
    found = grad_cam(Plain(pool=2).eval(), video, {"difference": difference})[1]["difference"][0]
    assert found.shape == (4, 6)
    assert found[3, 5] == pytest.approx(1 / 6)  # the cell's value over 6 cells
    assert found[3, 4] == pytest.approx(0.75 / 6) and found[3, 3] == pytest.approx(0.25 / 6)
    assert (found[:, :3] == 0).all() and found[0].abs().max() == 0


def test_the_maximum_over_time_comes_after_enlarging():
    """One cell in each of two frames, side by side: between them lies the larger of what each gives alone."""
    video = torch.zeros(1, 2, 4, 8, 3)
    video[0, 0, :, :4, 0] = 1  # left cell of 1 x 2 in the first frame, right cell in the second
    video[0, 1, :, 4:, 0] = 1
    found = grad_cam(Plain(pool=4).eval(), video, {"red": lambda logits: logits[..., 0].sum(1)})[1]["red"][0]
    left = torch.tensor([1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])  # centres of pixels against those of the two cells
    expected = torch.maximum(left, left.flip(0)) * found[0, 0]
    torch.testing.assert_close(found, expected.expand(4, 8))
    assert found[0, 0] > 0


def test_real_network():
    torch.manual_seed(0)
    network = fold(build("small_i3d", 5))
    video = torch.rand(2, 8, 32, 48, 3)
    logits, maps = grad_cam(
        network, video, {"entropy": negative_entropy, "least": lambda logits: -negative_entropy(logits)}
    )
    with torch.no_grad():
        torch.testing.assert_close(logits, network(video))
    assert maps["entropy"].shape == maps["least"].shape == (2, 32, 48)
    assert maps["entropy"].max() > 0 or maps["least"].max() > 0
    assert not torch.equal(maps["entropy"], maps["least"])
    alone = grad_cam(network, video[1:], {"entropy": negative_entropy})[1]["entropy"]
    torch.testing.assert_close(alone, maps["entropy"][1:])


def test_leaves_no_trace():
    torch.manual_seed(0)
    network, video = build("small_i3d", 5).eval(), torch.rand(1, 8, 24, 32, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grad_cam(network, video, {"entropy": negative_entropy})
    with pytest.raises(RuntimeError):
        grad_cam(network, torch.rand(1, 8, 24, 32, 5), {"entropy": negative_entropy})
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not video.requires_grad and not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_train_mode_is_refused():
    with pytest.raises(ValueError, match="eval mode"):
        grad_cam(Plain().train(), torch.rand(1, 2, 4, 6, 3), {"difference": difference})
