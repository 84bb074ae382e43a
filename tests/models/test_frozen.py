"""The frozen network: the same function and the same input gradient as plain 3-D convolutions, without a trace."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.networks import both_networks, clip
from benchmarks.plain_i3d import PlainBottleneck, plain_resnet50, plain_small
from benchmarks.saliency_box import agreement, is_exact
from models.frozen.bottleneck import FrozenBottleneck
from models.frozen.fold import fold
from models.frozen.i3d import FrozenI3D
from models.i3d import I3D, Bottleneck, resnet50_i3d, small_i3d
from models.losses import max_logit, negative_entropy
from models.saliency import input_saliency


def randomised(network):
    """Batch-norms that do something: none of their four vectors is what it is at the start."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            for value in (module.weight, module.running_var):
                value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))
            for value in (module.bias, module.running_mean):
                value.data.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return network.eval()


def error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("width_in", "stride"), [(24, 1), (16, 1), (16, 2), (24, 2)])
def test_block(width_in, stride):
    """With and without a shortcut of its own, with and without a stride, on two clips that are not square."""
    torch.manual_seed(0)
    block, plain = Bottleneck(width_in, 24, stride, 0.1), PlainBottleneck(width_in, 24, stride, 0.1)
    plain.load_state_dict(randomised(block).state_dict())
    frozen = FrozenBottleneck(_folded_block(block)).double()
    x = torch.randn(2, width_in, 3, 6, 10).double().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    before = x.detach().clone()
    out, expected = frozen(x), plain.double().eval()(x)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert error(out, expected) < 1e-6  # the folded weights are float32
    towards = torch.randn_like(out)
    kept = towards.clone()
    (gradient,) = torch.autograd.grad(out, x, towards)
    assert error(gradient, torch.autograd.grad(expected, x, towards)[0]) < 1e-6
    assert torch.equal(x, before) and torch.equal(towards, kept)  # what happens in place happens to its own tensors


def _folded_block(block):
    class Holder(nn.Module):
        foldable = True

        def __init__(self):
            super().__init__()
            self.block = block

    return fold(Holder()).block


@pytest.mark.parametrize(
    ("build", "plain", "shape"),
    [
        (resnet50_i3d, lambda classes: plain_resnet50(classes, window=(2, 1, 2)), (2, 24, 32, 64, 3)),
        (small_i3d, lambda classes: plain_small(classes, window=(1, 3, 4)), (3, 7, 48, 64, 3)),
    ],
)
def test_network_in_double(build, plain, shape):
    """Where rounding plays no part, logits and input gradient are those of the plain network."""
    torch.manual_seed(0)
    network = randomised(build(7)).double()
    expected_network = plain(7).double().eval()
    expected_network.load_state_dict(network.state_dict())
    frozen = fold(network)
    assert isinstance(frozen, FrozenI3D) and isinstance(network, I3D)
    video = torch.rand(shape, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    logits, expected = frozen(video), expected_network(video)
    assert logits.shape == expected.shape and error(logits, expected) < 1e-10
    gradients = [torch.autograd.grad(value.square().sum(), video)[0] for value in (logits, expected)]
    assert error(*gradients) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("frames", [16, 32])
def test_network_in_float32_at_full_size(frames):
    """Logits to 1e-5, the map as near to float64 as the plain network's, the same box."""
    network, plain = both_networks()
    video = clip(frames)
    found = agreement(fold(network), plain, video)
    assert is_exact(found), found


def test_objectives_do_not_disturb_each_other():
    """Two backward passes through one forward pass: what the first did in place does not reach the second."""
    torch.manual_seed(0)
    frozen = fold(randomised(small_i3d(5)))
    video = torch.rand(2, 8, 32, 40, 3, generator=torch.Generator().manual_seed(0))
    objectives = {"entropy": negative_entropy, "max_logit": max_logit, "again": negative_entropy}
    _, maps = input_saliency(frozen, video, objectives)
    for name, objective in objectives.items():
        _, alone = input_saliency(frozen, video, {name: objective})
        assert torch.equal(maps[name], alone[name]), name
    assert not torch.allclose(maps["entropy"], maps["max_logit"])


def test_bfloat16():
    """Under autocast logits and maps are float32 and near those of float32; a wrong cast would raise, or be float32."""
    torch.manual_seed(0)
    network = randomised(small_i3d(5))
    frozen, video = fold(network), torch.rand(2, 8, 56, 56, 3, generator=torch.Generator().manual_seed(0))
    logits, maps = input_saliency(frozen, video, {"entropy": negative_entropy})
    half_logits, half_maps = input_saliency(frozen, video, {"entropy": negative_entropy}, "bfloat16")
    assert half_logits.dtype == half_maps["entropy"].dtype == torch.float32
    assert 0 < error(half_logits, logits) < 0.03
    assert 0 < error(half_maps["entropy"], maps["entropy"]) < 0.2
    with torch.autocast("cpu", torch.bfloat16):
        features = frozen.layer1(frozen.stem(video))
    assert features.dtype == torch.bfloat16


def test_a_frozen_network_can_be_copied_and_moved():
    frozen = fold(randomised(small_i3d(5)))
    video = torch.rand(1, 8, 32, 40, 3)
    twin = copy.deepcopy(frozen).to(torch.float64)
    with torch.no_grad():
        assert error(twin(video.double()), frozen(video).double()) < 1e-5
