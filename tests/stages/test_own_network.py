"""A network of the user's own goes through every stage, and belongs to what is made with it."""

import pandas as pd
import pytest
import torch

import cache
from models.own_network import NetworkError
from pipeline.errors import StageError
from pipeline.stages import evaluate, prepare, saliency, train_base, train_fusion, train_online
from tests.helpers.readme import blocks, text_of
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
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network.head.weight.requires_grad))
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


def test_the_network_of_the_readme(tiny_run, tmp_path):
    (tmp_path / "net.py").write_text(
        next(code for code in blocks(text_of("models/README.md"), "python") if "class Net" in code)
    )
    config = tiny_config(tiny_run.data, base={"network": f"{tmp_path / 'net.py'}:small"})
    run_all(config, tmp_path / "run")
    assert cache.open(tmp_path / "run").index.crop_done.all()
