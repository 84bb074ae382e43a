"""Backbones: one interface, logits at every time step, the published state names."""

import subprocess
import sys

import pytest
import torch
from torchvision.models import video as torchvision_video

from models.backbones import build, head_names
from models.checkpoint import load_weights, to_bytes
from models.frozen.fold import fold
from models.own_network import NetworkError
from models.saliency import input_saliency

TORCHVISION = ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "swin3d_s", "swin3d_b"]
KINETICS = torch.tensor([[0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]])
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


@pytest.fixture
def video():
    return torch.rand(1, 16, 32, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("small_i3d", 8),
        ("resnet50_i3d", 1),
        ("r3d_18", 2),
        ("mc3_18", 16),
        ("r2plus1d_18", 2),
        ("s3d", 2),
        ("swin3d_t", 8),
    ],
)
def test_logits_at_every_time_step(name, steps, video):
    network = build(name, 5).eval()
    with torch.no_grad():
        logits = network(video)
        assert logits.shape == (1, steps, 5)
        assert len({network.state_dict()[key].shape[0] for key in head_names(network)}) == 1
        torch.testing.assert_close(fold(network)(video), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TORCHVISION)
def test_equals_torchvision_after_the_mean_over_time(name, video):
    """Same state names, same normalisation; and torchvision's answer is the mean over our time steps."""
    torch.manual_seed(0)
    plain = getattr(torchvision_video, name)(weights=None, num_classes=5).eval()
    if name == "s3d":
        plain.avgpool = torch.nn.AdaptiveAvgPool3d(1)  # its 2 x 7 x 7 window needs 224 pixels
    network = build(name, 5).eval()
    network.load_state_dict(plain.state_dict())
    mean, std = IMAGENET if name.startswith("swin3d") else KINETICS
    with torch.no_grad():
        expected = plain(((video - mean) / std).permute(0, 4, 1, 2, 3))
        torch.testing.assert_close(network(video).mean(1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_network_of_one_step_equals_torchvision():
    """At its only size; saliency reaches the input, and another length is refused."""
    torch.manual_seed(0)
    plain = torchvision_video.mvit_v2_s(weights=None, num_classes=5).eval()
    network = build("mvit_v2_s", 5).eval()
    network.load_state_dict(plain.state_dict())
    assert set(head_names(network)) == {"head.1.weight", "head.1.bias"}
    video = torch.rand(1, 16, 224, 224, 3)
    logits, maps = input_saliency(fold(network), video, {"sum": lambda logits: logits.sum((1, 2))})
    with torch.no_grad():
        expected = plain(((video - 0.45) / 0.225).permute(0, 4, 1, 2, 3))
    torch.testing.assert_close(logits[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert maps["sum"].shape == (1, 224, 224) and (maps["sum"] > 0).float().mean() > 0.5
    _, maps = input_saliency(network, video, {"sum": lambda logits: logits.sum((1, 2))}, gradient_at="patches")
    assert maps["sum"].shape == (1, 224, 224) and maps["sum"].amax() > 0
    with pytest.raises((RuntimeError, ValueError)):
        network(video[:, :8])


def test_torchvision_file_loads_with_a_new_head(tmp_path):
    path = tmp_path / "r3d_18.pth"
    published = torchvision_video.r3d_18(weights=None, num_classes=7)
    path.write_bytes(to_bytes(published.state_dict()))
    network = build("r3d_18", 5)
    assert load_weights(network, path, head_names(network), new_head=True) == ["fc.bias", "fc.weight"]
    assert torch.equal(network.layer3[0].conv1[0].weight, published.layer3[0].conv1[0].weight)


@pytest.mark.parametrize("name", ["r3d_18", "swin3d_t"])
def test_saliency_reaches_the_input(name):
    video = torch.rand(1, 8, 32, 48, 3)
    _, maps = input_saliency(build(name, 5), video, {"sum": lambda logits: logits.sum((1, 2))})
    assert maps["sum"].shape == (1, 32, 48) and (maps["sum"] > 0).float().mean() > 0.5


def test_names_of_the_classifier():
    assert set(head_names(build("small_i3d", 5))) == {"fc.weight", "fc.bias"}
    assert set(head_names(build("s3d", 5))) == {"classifier.1.weight", "classifier.1.bias"}
    assert set(head_names(build("swin3d_t", 5))) == {"head.weight", "head.bias"}


def test_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="'c3d' is not one of small_i3d, "):
        build("c3d", 5)


def test_stages_do_not_load_torchvision_for_our_own_networks():
    """It loads for longer than everything else of a stage does."""
    code = "import sys; from pipeline.stages import saliency, crops, train_fusion, evaluate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pipeline.stages.evaluate" in loaded and "torchvision" not in loaded


def test_prepare_and_its_workers_do_not_load_torch():
    """They start sooner, and in a quarter of the memory."""
    code = "import sys; from pipeline.stages import prepare; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pipeline.stages.prepare" in loaded and "torch" not in loaded


@pytest.mark.parametrize("name", ["small_i3d", "r2plus1d_18", "mvit_v2_s"])
def test_an_option_that_a_network_does_not_have(name):
    with pytest.raises(NetworkError, match=f"base.options of {name}: .*colour"):
        build(name, 3, colour=1)
