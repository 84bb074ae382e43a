"""I3D: the published names and shapes, and the same numbers as plain 3-D convolutions."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.plain_i3d import plain_resnet50, plain_small
from models.frozen.fold import fold
from models.i3d import as_input, inflate_2d, resnet50_i3d, small_i3d
from models.kernels.split_conv import SplitConv3d


def randomised(network):
    """Batch-norm statistics and affine parameters away from 0 and 1, so that each of them matters."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            for value in (module.weight, module.running_var):
                value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))
            for value in (module.bias, module.running_mean):
                value.data.copy_(0.2 * torch.randn(value.shape, generator=generator))
    network.fc.weight.data.copy_(torch.randn(network.fc.weight.shape, generator=generator) / 10)
    network.fc.bias.data.copy_(torch.randn(network.fc.bias.shape, generator=generator))
    return network


def error(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return randomised(resnet50_i3d(7)).eval()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return randomised(small_i3d(7))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 3, 5), (1, 1, 2), (0, 1, 0)),
        ((3, 1, 1), 1, (1, 0, 0)),
        ((3, 1, 1), (2, 1, 1), 0),
        (1, 1, 0),
        (1, (1, 2, 3), 0),
        (1, (2, 1, 1), 0),
        ((5, 7, 3), 2, (2, 3, 1)),
        ((3, 1, 1), (1, 2, 1), (1, 0, 1)),
        ((1, 3, 3), 1, (1, 1, 1)),
    ],
)
def test_split_convolution_is_the_3d_convolution(kernel, stride, padding):
    torch.manual_seed(0)
    split, plain = SplitConv3d(3, 4, kernel, stride, padding), nn.Conv3d(3, 4, kernel, stride, padding)
    plain.load_state_dict(split.state_dict())
    x = torch.randn(2, 3, 7, 8, 11)
    expected = plain(x)
    torch.testing.assert_close(split(x), expected)
    torch.testing.assert_close(split(x.contiguous(memory_format=torch.channels_last_3d)), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 1, 1), 1, (1, 0, 0)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ((5, 1, 1), (3, 1, 1), (2, 0, 0)),
        ((2, 1, 1), 1, 0),
        ((9, 1, 1), 1, (4, 0, 0)),  # taps that meet nothing but padding
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((5, 7, 3), 2, (2, 3, 1)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_split_convolution_has_the_gradients_of_the_3d_convolution(kernel, stride, padding, bias):
    torch.manual_seed(0)
    split = SplitConv3d(3, 4, kernel, stride, padding, bias=bias).double()
    plain = nn.Conv3d(3, 4, kernel, stride, padding, bias=bias).double()
    plain.load_state_dict(split.state_dict())
    x = torch.randn(2, 3, 4, 8, 11).double()
    gradients = []
    for conv in (split, plain):
        clip = x.clone().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        out = conv(clip)
        towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).double()
        gradients.append(torch.autograd.grad(out, (clip, *conv.parameters()), towards))
    for value, expected in zip(*gradients, strict=True):
        assert value.shape == expected.shape
        torch.testing.assert_close(value, expected)


def test_split_convolution_trains_under_autocast():
    """Activations in bfloat16, gradients of the weights in float32."""
    torch.manual_seed(0)
    conv, x = SplitConv3d(8, 16, (3, 1, 1), padding=(1, 0, 0)), torch.randn(2, 8, 4, 6, 10)
    (expected,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(out.float().square().sum(), conv.weight)
    assert gradient.dtype == torch.float32
    assert 0 < error(gradient, expected) < 0.02


def test_convolutions_work_on_views_of_one_channels_last_buffer(small):
    """All layers before the mean over space take and give channels-last order, so views are enough between them."""
    orders = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: orders.append(
                [value.is_contiguous(memory_format=torch.channels_last_3d) for value in (*inputs, output)]
            )
        )
        for module in small.modules()
        if isinstance(module, (SplitConv3d, nn.MaxPool3d, nn.BatchNorm3d)) and module is not small.fc
    ]
    small(torch.rand(2, 8, 32, 40, 3))
    for hook in hooks:
        hook.remove()
    assert len(orders) == len(hooks)
    assert all(all(order) for order in orders)


def test_published_names_and_shapes(resnet):
    shapes = {name: tuple(value.shape) for name, value in resnet.state_dict().items()}
    assert shapes == {name: tuple(value.shape) for name, value in plain_resnet50(7).state_dict().items()}
    # 53 convolutions, 53 batch-norms of 5 entries, a classifier with bias
    assert len(shapes) == 53 + 53 * 5 + 2
    assert shapes["conv1.weight"] == (64, 3, 5, 7, 7)
    assert shapes["layer1.0.conv1.weight"] == (64, 64, 3, 1, 1)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1, 1)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 1, 3, 3)
    assert shapes["layer4.2.conv3.weight"] == (2048, 512, 1, 1, 1)
    assert shapes["fc.weight"] == (7, 2048, 1, 1, 1)
    assert shapes["layer4.2.bn3.running_var"] == (2048,)


def test_published_batch_norms(resnet):
    for name, module in resnet.named_modules():
        if isinstance(module, nn.BatchNorm3d):
            expected = (1e-5, 0.1) if "downsample" in name else (1e-3, 0.01)
            assert (module.eps, module.momentum) == expected, name


@pytest.mark.parametrize(("frames", "steps"), [(16, 1), (32, 3), (64, 7), (128, 15)])
def test_time_steps_of_the_published_network(resnet, frames, steps):
    with torch.no_grad():
        assert resnet(torch.zeros(1, frames, 32, 32, 3)).shape == (1, steps, 7)


@pytest.mark.parametrize(("frames", "size", "steps"), [(4, 56, 2), (8, 56, 4), (8, 32, 4), (16, 32, 8)])
def test_time_steps_of_the_small_network(small, frames, size, steps):
    assert small(torch.zeros(2, frames, size, size, 3)).shape == (2, steps, 7)


def test_too_short_a_clip_is_refused(resnet):
    with torch.no_grad(), pytest.raises(ValueError, match="8 frames"):
        resnet(torch.zeros(1, 8, 32, 32, 3))


def test_published_network_equals_the_plain_one(resnet):
    """Logits and input gradient on a non-square clip, whose last map is 1 x 2; in double, where no ReLU wavers."""
    network = copy.deepcopy(resnet).double()
    plain = plain_resnet50(7, window=(2, 1, 2)).double().eval()
    plain.load_state_dict(network.state_dict())
    video = torch.rand(2, 24, 32, 64, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    logits, expected = network(video), plain(video)
    assert logits.shape == (2, 2, 7)
    assert error(logits, expected) < 1e-10
    gradient, expected_gradient = (torch.autograd.grad(value.square().sum(), video)[0] for value in (logits, expected))
    assert error(gradient, expected_gradient) < 1e-10
    with torch.no_grad():
        assert error(fold(network)(video), expected) < 1e-10


def test_published_network_averages_its_last_map_at_224(resnet):
    """The 7 x 7 window of the published network is the whole map there."""
    plain = plain_resnet50(7).eval()
    plain.load_state_dict(resnet.state_dict())
    video = torch.rand(1, 16, 224, 224, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert error(resnet(video), plain(video)) < 1e-5


def test_small_network_trains_as_the_plain_one(small):
    plain = plain_small(7, window=(1, 3, 4))
    plain.load_state_dict(small.state_dict())
    video = torch.rand(3, 8, 48, 64, 3, generator=torch.Generator().manual_seed(1))
    for network in (small.train(), plain.train()):
        network(video).square().mean().backward()
    for (name, value), expected in zip(small.named_parameters(), plain.parameters(), strict=True):
        assert error(value.grad, expected.grad) < 1e-3, name
    for (name, value), expected in zip(small.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)


def test_folding_leaves_the_network_alone(small):
    video = torch.rand(1, 8, 32, 40, 3)
    before = {name: value.clone() for name, value in small.state_dict().items()}
    folded = fold(small.train())
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters()) and not folded.training
    assert small.training and all(parameter.requires_grad for parameter in small.parameters())
    with torch.no_grad():
        assert error(folded(video), small.eval()(video)) < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_inflated_weights_see_a_still_video_as_an_image():
    """Away from the clip's ends a still video must give what the 2-D network gives for its image."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    flat = torchvision.models.resnet50(weights=None).eval()
    network = resnet50_i3d(7)
    state = inflate_2d(flat.state_dict(), network)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert set(missing) == {"fc.weight", "fc.bias"} and unexpected == []
    image = torch.randn(1, 3, 64, 96)
    still = image.unsqueeze(2).expand(-1, -1, 5, -1, -1)
    stem = network.conv1(still)[:, :, 1]  # the only step whose five frames all lie inside the clip
    assert error(stem, flat.conv1(image)) < 1e-5
    x = torch.randn(1, 64, 16, 24)
    block = nn.functional.conv3d(x.unsqueeze(2).expand(-1, -1, 3, -1, -1), state["layer1.0.conv1.weight"])[:, :, 0]
    assert error(block, flat.layer1[0].conv1(x)) < 1e-5
    assert torch.equal(state["layer2.0.bn2.running_var"], flat.layer2[0].bn2.running_var)


def test_input_is_rgb_between_0_and_1():
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 1, 3)
    assert as_input(frames).flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert as_input(frames).dtype == torch.float32
    with pytest.raises(TypeError, match="float32"):
        as_input(frames.float())
