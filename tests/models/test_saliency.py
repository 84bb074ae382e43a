"""Saliency: equal to the formula, blind to the batch around a clip, and without a trace."""

import pytest
import torch
from torch import nn

from models.backbones import build
from models.frozen.fold import fold
from models.grad_cam import grad_cam
from models.i3d import small_i3d
from models.losses import max_logit, negative_entropy
from models.own_network import NetworkError
from models.saliency import SaliencyError, input_saliency


class Linear(nn.Module):
    """One logit: a weighted sum of the pixels, whose gradient is the weights."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, video):
        return (video * self.weight).flatten(1).sum(1).reshape(-1, 1, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return small_i3d(5, widths=(16, 16, 16))


@pytest.fixture
def video():
    return torch.rand(3, 4, 32, 40, 3, generator=torch.Generator().manual_seed(0))


def state(network):
    flags = [(module.training, len(module._forward_hooks), len(module._backward_hooks)) for module in network.modules()]
    grads = [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    return flags, grads, {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(before, after):
    assert before[0] == after[0]
    for (flag, grad), (flag_after, grad_after) in zip(before[1], after[1], strict=True):
        assert flag == flag_after and grad is grad_after
    assert all(torch.equal(value, after[2][name]) for name, value in before[2].items())


def test_length_over_colours_then_maximum_over_time():
    weight = torch.zeros(2, 3, 4, 3)  # T, H, W, 3
    weight[0, 1, 2] = torch.tensor([3.0, -4.0, 0.0])
    weight[1, 1, 2] = torch.tensor([2.0, 0.0, 0.0])
    weight[1, 0, 3] = torch.tensor([2.0, 3.0, 6.0])
    expected = torch.zeros(3, 4)
    expected[1, 2], expected[0, 3] = 5, 7
    logits, maps = input_saliency(Linear(weight), torch.ones(2, 2, 3, 4, 3), {"first": lambda x: x.sum((1, 2))})
    assert logits.shape == (2, 1, 1) and logits.flatten().tolist() == [12, 12] and not logits.requires_grad
    assert maps["first"].dtype == torch.float32
    assert torch.equal(maps["first"], expected.expand(2, 3, 4))


def test_map_is_the_derivative_of_the_objective(network, video):
    """Against central differences in double, at the most salient pixel and at one in a corner."""
    network, clip = network.double().eval(), video[:1].double()
    _, maps = input_saliency(network, clip, {"entropy": negative_entropy})
    peak = divmod(maps["entropy"][0].argmax().item(), 40)
    for row, column in (peak, (1, 37)):
        slopes = torch.zeros(4, 3, dtype=torch.double)
        for t in range(4):
            for c in range(3):
                step = torch.zeros_like(clip)
                step[0, t, row, column, c] = 1e-6
                with torch.no_grad():
                    slopes[t, c] = (
                        negative_entropy(network(clip + step)) - negative_entropy(network(clip - step))
                    ).item() / 2e-6
        expected = slopes.norm(dim=1).max().item()
        assert maps["entropy"][0, row, column].item() == pytest.approx(expected, rel=1e-3)


def test_a_batch_gives_what_one_clip_at_a_time_gives(network, video):
    objectives = {"entropy": negative_entropy, "max_logit": max_logit}
    logits, maps = input_saliency(network, video, objectives)
    for i in range(3):
        alone, maps_alone = input_saliency(network, video[i : i + 1], objectives)
        torch.testing.assert_close(alone[0], logits[i])
        for name in objectives:
            torch.testing.assert_close(maps_alone[name][0], maps[name][i], rtol=1e-3, atol=1e-6)


def test_objectives_share_the_forward_pass_and_do_not_disturb_each_other(network, video):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    _, both = input_saliency(network, video, {"entropy": negative_entropy, "max_logit": max_logit})
    assert len(calls) == 1 and list(both) == ["entropy", "max_logit"]
    _, alone = input_saliency(network, video, {"max_logit": max_logit})
    torch.testing.assert_close(both["max_logit"], alone["max_logit"])
    assert not torch.allclose(both["max_logit"], both["entropy"])


def test_network_runs_in_eval_mode(network, video):
    network.train()
    logits, _ = input_saliency(network, video, {"entropy": negative_entropy})
    with torch.no_grad():
        torch.testing.assert_close(logits, network.eval()(video))


@pytest.mark.parametrize("training", [True, False])
def test_no_trace_is_left(network, video, training):
    network.train(training)
    network.layer1.eval()
    network.fc.weight.requires_grad_(False)
    network.fc.bias.grad = torch.ones(5)
    before = state(network)
    original = video.clone()
    with torch.no_grad():
        input_saliency(network, video, {"entropy": negative_entropy})
        assert not torch.is_grad_enabled()
    assert_same(before, state(network))
    assert torch.equal(video, original) and not video.requires_grad and video.grad is None


def test_no_trace_is_left_after_an_exception(network, video):
    before = state(network.train())

    def broken(logits):
        raise RuntimeError("broken objective")

    with pytest.raises(RuntimeError, match="broken objective"):
        input_saliency(network, video, {"broken": broken})
    assert_same(before, state(network))


def test_a_map_that_is_not_finite_names_objective_and_clips(network, video):
    video[1, 0, 3, 5, 0] = float("nan")
    with pytest.raises(SaliencyError, match=r"'entropy'.*\[1\]"):
        input_saliency(network, video, {"entropy": negative_entropy})


def test_bfloat16_gives_nearly_the_same_map(network, video):
    logits, maps = input_saliency(network, video, {"entropy": negative_entropy}, precision="bfloat16")
    expected_logits, expected = input_saliency(network, video, {"entropy": negative_entropy})
    assert logits.dtype == maps["entropy"].dtype == torch.float32
    torch.testing.assert_close(logits, expected_logits, rtol=0.1, atol=0.02)
    pairs = torch.stack([maps["entropy"].flatten(), expected["entropy"].flatten()])
    assert torch.corrcoef(pairs)[0, 1] > 0.9 and not torch.equal(pairs[0], pairs[1])
    with pytest.raises(ValueError, match="'half'"):
        input_saliency(network, video, {"entropy": negative_entropy}, precision="half")


@pytest.fixture(params=[True, False])
def tf32_before(request):
    """PyTorch's switches, (of matrix products, of convolutions), as they were before a call."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    old = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = request.param
    yield lambda: (matmul.allow_tf32, cudnn.allow_tf32)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (request.param, request.param)
    matmul.allow_tf32, cudnn.allow_tf32 = old


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_tensorfloat_is_used_where_it_is_asked_for_only(network, video, precision, allowed, tf32_before):
    """In the forward and in the backward pass; PyTorch's own switches are as before afterwards."""
    seen = []

    def note(logits):
        logits.register_hook(lambda _: seen.append(tf32_before()))
        seen.append(tf32_before())
        return negative_entropy(logits)

    for compute in (input_saliency, grad_cam):
        compute(fold(network), video, {"entropy": note}, precision)
    assert seen == [(allowed, allowed)] * 4


def test_tf32_is_float32_on_a_cpu(network, video):
    for kind in zip(input_saliency(network, video, {"entropy": negative_entropy}),
                    input_saliency(network, video, {"entropy": negative_entropy}, "tf32"), strict=True):  # fmt: skip
        torch.testing.assert_close(*kind, rtol=0, atol=0)


class Patches(nn.Module):
    """Logits are weighted sums of patch embeddings; `form` is that of the embedding's output."""

    patch_embedding, patch_size = "embed", (2, 4, 4)

    def __init__(self, form):
        super().__init__()
        self.embed, self.form = nn.Sequential(nn.Conv3d(3, 5, (2, 4, 4), (2, 4, 4))), form
        if form == "frames":
            self.embed = nn.Conv2d(3, 5, 4, 4)
        if form == "tokens":
            self.embed.append(nn.Flatten(2)).append(Swap())
        self.weight = nn.Parameter(torch.zeros(2, 5, 3, 2))  # T', D, h, w of a frame of 12 x 8

    def forward(self, video):
        x = video.permute(0, 4, 1, 2, 3)
        if self.form == "frames":  # each of two frames by itself
            x = self.embed(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(video), -1))
        elif self.form == "tokens":
            x = self.embed(x).transpose(1, 2).unflatten(2, (2, 3, 2)).transpose(1, 2)
        else:
            x = self.embed(x).transpose(1, 2)
        return (x * self.weight).flatten(1).sum(1).reshape(-1, 1, 1)


class Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


@pytest.mark.parametrize("form", ["tubelets", "frames", "tokens"])
def test_at_patches_length_over_channels_then_maximum_over_time_enlarged(form):
    network = Patches(form).eval()
    with torch.no_grad():
        network.weight[0, :, 2, 0] = torch.tensor([3.0, -4.0, 0.0, 0.0, 0.0])
        network.weight[1, :, 2, 0] = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0])
        network.weight[1, :, 0, 0] = torch.tensor([0.0, 2.0, 3.0, 6.0, 0.0])
    video = torch.rand(2, 2 if form == "frames" else 4, 12, 8, 3)
    before = state(network)
    _, maps = input_saliency(network, video, {"first": lambda x: x.sum((1, 2))}, gradient_at="patches")
    grid = torch.tensor([[7.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    assert maps["first"].shape == (2, 12, 8)
    rows, columns = (((torch.arange(n) + 0.5) / 4 - 0.5).clamp(0, n / 4 - 1) for n in (12, 8))  # centres on the grid
    for y, x in ((0, 0), (2, 3), (3, 1), (9, 6), (11, 7), (6, 2)):
        top, left = int(rows[y]), int(columns[x])
        low, right = min(top + 1, 2), min(left + 1, 1)
        down, across = rows[y] - top, columns[x] - left
        above = grid[top, left] * (1 - across) + grid[top, right] * across
        below = grid[low, left] * (1 - across) + grid[low, right] * across
        assert maps["first"][1, y, x].item() == pytest.approx((above * (1 - down) + below * down).item(), abs=1e-5)
    assert_same(before, state(network))


def test_what_embeds_no_patches_is_refused(network, video):
    with pytest.raises(NetworkError, match="needs the network's attribute patch_embedding"):
        input_saliency(network, video, {"entropy": negative_entropy}, gradient_at="patches")
    tokens = Patches("tokens").eval()
    tokens.patch_size = (1, 4, 4)
    with pytest.raises(NetworkError, match=r"gives \(2, 12, 5\) for clips \(2, 4, 12, 8, 3\), expected"):
        input_saliency(tokens, torch.rand(2, 4, 12, 8, 3), {"entropy": negative_entropy}, gradient_at="patches")


def test_a_swin_names_its_patch_embedding():
    network = build("swin3d_t", 5).eval()
    _, maps = input_saliency(network, torch.rand(1, 4, 32, 64, 3), {"entropy": negative_entropy}, gradient_at="patches")
    assert maps["entropy"].shape == (1, 32, 64) and maps["entropy"].amax() > 0
