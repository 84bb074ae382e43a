"""check-network: what it counts is right by hand, and what breaks the contract ends it with a fix."""

import json
import re

import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.preflight.check_network import examine
from tests.helpers.tiny_data import change, tiny_config

OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, breach):
        super().__init__()
        self.conv, self.breach = nn.Conv3d(3, 5, (1, 2, 2), stride=(1, 2, 2), bias=False), breach
        self.norm, self.head = nn.BatchNorm3d(5), nn.Linear(5, num_classes, bias=False)

    def forward(self, video):
        x = self.norm(self.conv(video.permute(0, 4, 1, 2, 3))).square().mean((2, 3, 4))
        return self.head(x.detach() if self.breach else x)

def net(num_classes, breach=False):
    return Net(num_classes, breach)
"""


@pytest.fixture
def own(tiny_run, tmp_path):
    (tmp_path / "net.py").write_text(OWN)
    return tiny_config(tiny_run.data, base={"network": f"{tmp_path / 'net.py'}:net"})


def test_counts_by_hand(own):
    """Four frames of 28 x 28: 14 x 14 places of 5 kernels of 3 x 2 x 2, twice for multiplication and addition."""
    found = {one.check: one for one in examine(own)}
    assert all(one.level != "problem" for one in found.values())
    parameters = 3 * 5 * 4 + 2 * 5 + 5 * 3
    assert f", {parameters} parameters, 3 classes, on cpu" in found["network"].text
    assert found["contract"].text == "float32 (B, 4, 28, 28, 3) to logits (B, 1, 3)"
    forward = 2 * 4 * 14 * 14 * 5 * 12 + 2 * 5 * 3
    assert found["forward pass"].text.startswith(f"{forward / 1e9:,.3g} GFLOP, ")
    assert found["saliency pass"].text.startswith(f"{2 * forward / 1e9:,.3g} GFLOP, ")  # as many for the input gradient
    for name in ("forward pass", "saliency pass"):
        seconds = float(re.search(r"([0-9.e-]+) s here", found[name].text)[1])
        assert 0 < seconds < 10
        peak = re.search(r"peak memory ([0-9,]+) MB", found[name].text)[1]
        assert 100 < int(peak.replace(",", "")) < 20_000  # of a process that has loaded PyTorch
    assert found["head_name"].level == found["last_block"].level == "note"
    assert found["batch-norm"].text == "0 of 1 layers are folded into convolutions for saliency"
    assert "of 1 sampled boxes as in float32" in found["bfloat16"].text


def test_attention_is_counted(own, tmp_path):
    """Of 4 tokens of 2352 values, in one head: a product for the weights and one with the values."""
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, n):\n        super().__init__()\n        self.head = nn.Linear(2352, n)\n"
        "    def forward(self, video):\n        x = video.flatten(2)[:, None]\n"
        "        x = nn.functional.scaled_dot_product_attention(x * x, x, x)\n"
        "        return self.head(x.mean((1, 2)))\ndef net(num_classes):\n    return Net(num_classes)\n"
    )
    found = {one.check: one for one in examine(own)}
    forward = 2 * (2 * 4 * 4 * 2352) + 2 * 2352 * 3
    assert found["forward pass"].text.startswith(f"{forward / 1e9:,.3g} GFLOP, ")


def test_a_network_of_ours(tiny_run):
    found = {one.check: one for one in examine(tiny_config(tiny_run.data))}
    assert found["contract"].text.endswith("to logits (B, 2, 3)") and "head_name" not in found
    assert found["batch-norm"].text.startswith("13 of 13 layers")


@pytest.mark.parametrize(
    ("settings", "check", "words"),
    [
        ({"options": (("breach", True),)}, "contract", "so there is no saliency"),
        ({"options": (("depth", 3),)}, "network", "unexpected keyword argument 'depth'"),
        ({"network": "gone.py:net"}, "network", "no such file or module as gone.py"),
        ({"freeze": ("gone",)}, "recipe", "base.freeze: no parameter of the network is 'gone' or in it"),
        ({"layer_decay": 0.75}, "recipe", "base.layer_decay: the network has no blocks of a transformer"),
    ],
)
def test_what_is_wrong_is_the_last_finding_and_has_a_fix(own, settings, check, words):
    *_, last = examine(change(own, base=settings))
    assert (last.check, last.level) == (check, "problem") and words in last.text and last.fix


def test_the_command(own, tmp_path):
    arguments = ["check-network", "--config", "table2-tiny", "--run", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and {one["level"] for one in json.loads(done.stdout)} == {"ok"}
    done = CliRunner().invoke(main, [*arguments[:-1], "--set", "base.network=gone.py:net"])
    assert done.exit_code == 4 and "1 problem(s)" in done.stdout
    assert not (tmp_path / "run").exists()
