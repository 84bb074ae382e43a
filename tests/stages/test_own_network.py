"""A network of the user's own goes through every stage, and belongs to what is made with it."""

import shutil

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import cache
from models.own_network import NetworkError
from pipeline.cli.main import main
from pipeline.config_file import to_toml
from pipeline.errors import StageError
from pipeline.stages import evaluate, prepare, saliency, train_base, train_fusion, train_online
from tests.helpers.readme import blocks, make_calls, text_of
from tests.helpers.tiny_data import change, run_all, run_to_crops, tiny_config

OWN = """
import torch
from torch import nn

class Small(nn.Module):
    head_name, last_block, channels_last = "head", "conv", False

    def __init__(self, num_classes, width):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, width, (2, 3, 3), stride=2), nn.BatchNorm3d(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, video):
        x = torch.relu(self.norm(self.conv(video.permute(0, 4, 1, 2, 3) - 0.5)))
        return self.head(x.mean((2, 3, 4)))

def small(num_classes, width=8):
    return Small(num_classes, width)
"""


@pytest.fixture
def own(tiny_run, tmp_path):
    (tmp_path / "net.py").write_text(OWN)
    return tiny_config(tiny_run.data, base={"network": f"{tmp_path / 'net.py'}:small", "options": (("width", 6),)})


def test_every_stage(own, tmp_path):
    run_all(own, tmp_path / "run")
    train_online.run(own, tmp_path / "run", "late")
    table = pd.read_csv(evaluate.run(own, tmp_path / "run").path)
    assert table.experiment.str.startswith(("base", "late", "concat")).all() and len(table) == 4
    opened = cache.open(tmp_path / "run")
    assert opened.logits(0).shape == (1, 3) and opened.saliency(0).max() > 0 and opened.index.crop_done.all()
    again = change(own, saliency={"method": "grad_cam"})
    saliency.run(again, tmp_path / "run")  # by its attribute last_block
    (weights,) = (tmp_path / "run").glob("models/base-*/weights.pt")
    other = change(own, base={"init": str(weights), "new_head": True})
    assert "new: head.bias, head.weight" in train_base.run(other, tmp_path / "run").summary


def test_maps_at_patches_have_a_store_of_their_own(own, tmp_path):
    (tmp_path / "net.py").write_text(OWN.replace("head_name,", 'patch_embedding = "conv"\n    head_name,'))
    prepare.run(own, tmp_path / "run")
    train_base.run(own, tmp_path / "run")
    for where in ("pixels", "patches"):
        saliency.run(change(own, saliency={"gradient_at": where}), tmp_path / "run")
    folders = [path.name for path in (tmp_path / "run/maps").iterdir()]
    assert len(folders) == 4 and len(set(folders)) == 4


def test_compiled_it_is_another_base_with_the_same_names(own, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr("models.compiled.torch.compile", lambda function: function)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda network, **_: compiled.append(network.head.weight.requires_grad)
    )
    fast = change(own, base={"compile": True})
    run_to_crops(fast, tmp_path / "run")
    assert compiled == [True, False]  # the training of Base, and its saliency
    train_fusion.run(fast, tmp_path / "run", "late")
    saliency.run(change(fast, saliency={"method": "grad_cam"}), tmp_path / "run")  # by hooks, which are not compiled
    assert len(compiled) == 3
    plain = train_base.run(own, tmp_path / "run").path
    bases = sorted((tmp_path / "run/models").glob("base-*/weights.pt"))
    assert len(bases) == 2 and plain / "weights.pt" in bases and len(compiled) == 3
    stores = len(list((tmp_path / "run/base").iterdir()))
    saliency.run(own, tmp_path / "run")  # of equal weights here; the last digits are those of other code
    assert len(list((tmp_path / "run/base").iterdir())) == 2 * stores
    names = [torch.load(path, weights_only=True).keys() for path in bases]
    assert names[0] == names[1]


def test_its_file_is_part_of_its_identity(own, tmp_path):
    prepare.run(own, tmp_path / "run")
    first = train_base.run(own, tmp_path / "run").path
    (tmp_path / "net.py").write_text(OWN + "\n# another version\n")
    with pytest.raises(StageError, match=r"no trained Base for this config \(.*net.py belongs to it"):
        saliency.run(own, tmp_path / "run")
    assert train_base.run(own, tmp_path / "run").path != first
    wider = change(own, base={"options": (("width", 7),)})
    assert train_base.run(wider, tmp_path / "run").path != first
    (tmp_path / "net.py").write_text(OWN)
    assert train_base.run(own, tmp_path / "run").path == first


def test_a_breach_ends_before_a_video_is_decoded(own, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        OWN.replace("self.head(", "x.new_ones(1) * self.head(").replace("x.mean(", "x.detach().mean(")
    )
    prepare.run(own, tmp_path / "run")
    monkeypatch.setattr("pipeline.training.base_clips.decode_frames", None)
    with pytest.raises(NetworkError, match=r"no saliency|fails"):
        train_base.run(own, tmp_path / "run")


def test_what_its_attributes_must_say(own, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        OWN.replace('head_name, last_block, channels_last = "head", "conv", False', "pass")
    )
    prepare.run(own, tmp_path / "run")
    with pytest.raises(NetworkError, match="last_block"):  # before it is trained
        train_base.run(change(own, saliency={"method": "grad_cam"}), tmp_path / "run")
    weights = train_base.run(own, tmp_path / "run").path / "weights.pt"
    with pytest.raises(NetworkError, match="last_block"):
        saliency.run(change(own, saliency={"method": "grad_cam"}), tmp_path / "run")
    monkeypatch.setattr("pipeline.stages.saliency.decode_ahead", None)
    patches = change(own, saliency={"gradient_at": "patches"})
    for stage in (saliency.run, train_online.run):
        with pytest.raises(NetworkError, match="patch_embedding"):
            stage(patches, tmp_path / "run")
    with pytest.raises(NetworkError, match="patch_embedding"):
        train_base.run(change(patches, seed=1), tmp_path / "run")
    with pytest.raises(StageError, match="head_name"):
        train_base.run(change(own, base={"init": str(weights), "new_head": True}), tmp_path / "run")


def readme_network():
    return next(code for code in blocks(text_of("models/README.md"), "python") if "class Net" in code)


@pytest.mark.parametrize(
    ("line", "breach", "words"),
    [
        ("(2, 3, 4)))", "(2, 3, 4)))[..., None, None]", "returns a tensor (2, 3, 1, 1), expected logits (B, classes)"),
        ("self.head(x", "nn.Linear(16, 7)(x", "gives logits (2, 1, 7) for clips (2, 4, 28, 28, 3), expected (2, time"),
        ("x.mean(", "nn.functional.dropout(x).mean(", "other logits the second time; in eval mode nothing may be"),
        ("x.mean(", "nn.functional.batch_norm(x, None, None, training=True).mean(", "depend on the clips beside it;"),
        ("(video.", "((255 * video).round().", "the gradient of the logits at the video is zero, so there is no"),
        ("x.mean(", "x.detach().mean(", "the gradient of the logits at the video is missing, so"),
        ("        x = ", "        video -= 0.5\n        x = ", "writes to its input; work on a copy, not in place"),
        ("x.mean(", "x.sigmoid_().mean(", "fails on clips (2, 4, 28, 28, 3): RuntimeError: one of the variables"),
        ("x.mean(", "x.mean(7, ", "fails on clips (2, 4, 28, 28, 3): TypeError: "),
    ],
)
def test_a_breach_is_one_sentence_of_the_command(tiny_run, tmp_path, monkeypatch, line, breach, words):
    """Before a video is decoded, and with nothing left behind, so that the same command goes on once it is mended."""
    code, run = readme_network(), tmp_path / "run"
    before, after = code.split("def forward", 1)
    assert after.count(line) == 1
    (tmp_path / "net.py").write_text(f"{before}def forward{after.replace(line, breach)}")
    config = tiny_config(tiny_run.data, base={"network": f"{tmp_path / 'net.py'}:small", "in_memory": True})
    shutil.copytree(tiny_run.path, run, ignore=shutil.ignore_patterns("models", "results*"))
    (tmp_path / "own.toml").write_text(to_toml(config))
    monkeypatch.setattr("pipeline.training.base_clips.decode_frames", None)
    done = CliRunner().invoke(main, ["train-base", "--config", str(tmp_path / "own.toml"), "--run", str(run)])
    (told,) = done.stderr.splitlines()
    assert done.exit_code == 4 and words in told and not list(run.glob("models/*/*"))


def test_the_page_of_ten_minutes(tmp_path, monkeypatch):
    """models/README.md, "Your network in ten minutes", to the letter but for the number of generated videos."""
    text = text_of("models/README.md")
    page = text[text.index("## Your network in ten minutes") : text.index("The contract, which `train-base` tries")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/net.py").write_text(blocks(page, "python")[0])
    few = ["--set", "data.train_videos=4", "--set", "data.eval_videos=2", "--set", "workers=1"]
    called, printed = [], ""
    for arguments in make_calls("".join(blocks(page, "sh"))):
        takes_settings = any("--set" in option.opts for option in main.commands[arguments[0]].params)
        result = CliRunner().invoke(main, [*arguments, *few * takes_settings])
        assert result.exit_code == 0, (arguments, result.output)
        called.append(arguments[0])
        printed += result.output
    assert called[0] == "check-network" and called[-2:] == ["evaluate", "report"] and len(called) == 8
    assert "to logits (B, 1, 10)" in printed and "0 problem(s)" in printed
    assert (tmp_path / "runs/own/report/index.html").exists()
    assert cache.open(tmp_path / "runs/own").index.crop_done.all()
