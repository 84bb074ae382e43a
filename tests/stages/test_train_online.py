"""Training on the fly is the method of the caches: same boxes, same volumes, same losses; it opens no store."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.layout import PRODUCTS
from models.box_search import quantise
from models.frozen.fold import fold
from models.i3d import as_input
from models.saliency import input_saliency
from pipeline.config import Saliency
from pipeline.data.box_policies import find_boxes
from pipeline.errors import StageError
from pipeline.run.fusion_models import Variant
from pipeline.run.networks import build_base
from pipeline.run.stores import boxes_of, open_run
from pipeline.stages import crops, train_fusion, train_online
from pipeline.training import online_clips
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.fusion_step import fusion_loss
from pipeline.training.online_clips import OnlineClips
from tests.helpers.tiny_data import change, make_data, run_to_crops, tiny_config

CPU = torch.device("cpu")
EPOCHS = 25  # of 2 steps each: 50 steps, as many augmentations stored


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run whose plan has an augmentation for every epoch, up to crops, lossless; saliency clip by clip."""
    root = tmp_path_factory.mktemp("online")
    config = tiny_config(
        make_data(root / "data"), clips={"aug_seeds": EPOCHS}, fusion={"epochs": EPOCHS}, saliency={"batch_size": 1}
    )
    run_to_crops(config, root / "run")
    return config, root / "run"


def online_clips_of(stores, *variant, saliency_from="base"):
    return OnlineClips(stores.run, stores.config, stores.base_weights, Variant(*variant), saliency_from, CPU)


def best(clip, codes):
    """The best box of 16 pixels in a map, and its share."""
    return find_boxes(clip, "entropy", Saliency(box_side=16), (0, 0), codes)[0]


def losses_of(stage, monkeypatch, *args):
    """Every loss that `fit` sees while a stage trains."""
    seen, module = [], online_clips if stage is train_online else sys.modules[stage.run.__module__]
    real = module.fusion_loss

    def spy(*values):
        loss = real(*values)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(module, "fusion_loss", spy)
    outcome = stage.run(*args)
    return seen, outcome


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_cached_and_online_are_the_same_method(stored, fusion, monkeypatch):
    """Volumes equal to the byte in every epoch; the losses of 50 steps agree to 1e-5; models do not mix."""
    config, run_dir = stored
    stores = open_run(run_dir, config)
    volumes = CachedVolumes(stores, "train", Variant(fusion, "entropy", "source"))
    places = list(volumes.places().values())
    online = online_clips_of(stores, fusion, "entropy", "source")
    for epoch in (0, 1, EPOCHS - 1):
        numbers = [2, 0, 3, 1]
        cached = volumes.load([places[number][epoch] for number in numbers])
        fresh = online.cut(None, online.load(epoch, numbers))
        assert torch.equal(cached[0], fresh[0]) and cached[0].dtype == fresh[0].dtype == torch.uint8
        for left, right in zip(cached[1:], fresh[1:], strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)
    theirs, outcome = losses_of(train_fusion, monkeypatch, config, run_dir, fusion)
    ours, other = losses_of(train_online, monkeypatch, config, run_dir, fusion)
    assert len(ours) == len(theirs) == 50 and outcome.path != other.path
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert max(theirs) - min(theirs) > 0.05  # it learns, so equality says something


@pytest.mark.parametrize(("focus", "pixels"), [("cross_entropy", "source"), ("random", "source"), ("center", "input")])
def test_other_boxes_are_those_of_the_caches(tiny_copy, focus, pixels):
    from pipeline.stages import saliency

    config = change(tiny_copy.config, saliency={"objectives": ("entropy", "cross_entropy"), "batch_size": 1})
    saliency.run(config, tiny_copy.path, use_labels=True)
    crops.run(config, tiny_copy.path, (focus,), pixels)
    stores = open_run(tiny_copy.path, config)
    volumes = CachedVolumes(stores, "train", Variant("late", focus, pixels))
    places = list(volumes.places().values())
    online = online_clips_of(stores, "late", focus, pixels)
    cached, fresh = volumes.load([rows[1] for rows in places]), online.cut(None, online.load(1, [0, 1, 2, 3]))
    assert torch.equal(cached[0], fresh[0])
    torch.testing.assert_close(cached[1], fresh[1], rtol=1e-5, atol=1e-5)


def test_repeat_is_the_input_again(tiny_run):
    online = online_clips_of(open_run(tiny_run.path, tiny_run.config), "concat", "repeat", "source")
    batch = online.load(0, [1, 2])
    focus, other, *_ = online.cut(None, batch)
    assert torch.equal(focus, other) and torch.equal(focus, batch[0])


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_the_current_network_looks(stored, fusion):
    """Before the first step it is Base, exactly; after 20 steps boxes differ, and are those of its own gradient."""
    config, run_dir = stored
    stores = open_run(run_dir, config)
    by_base = online_clips_of(stores, fusion, "entropy", "source")
    current = online_clips_of(stores, fusion, "entropy", "source", saliency_from="current")
    network = build_base(stores.base_weights).train()
    batches = [current.load(epoch, [0, 1, 2, 3]) for epoch in range(5)]
    for batch in batches:
        for left, right in zip(by_base.cut(network, batch), current.cut(network, batch), strict=True):
            assert torch.equal(left, right)
    optimiser = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    for step in range(20):
        optimiser.zero_grad()
        fusion_loss(network, current.cut(network, batches[step % 5]), fusion, config.fusion).backward()
        optimiser.step()
    assert network.training and all(value.requires_grad for value in network.parameters())
    moved = 0
    for batch in batches:
        old, new = by_base.cut(network, batch), current.cut(network, batch)
        moved += sum(not torch.equal(left, right) for left, right in zip(old[0], new[0], strict=True))
        assert torch.equal(old[1], new[1])  # Base's logits, or V_in, whoever looks
        _, codes = current._maps(network, batch)
        for number, clip in enumerate(batch.source.clips):
            video = as_input(batch.context[number : number + 1], CPU)
            objective = {"e": lambda logits: (logits.sigmoid() * torch.nn.functional.logsigmoid(logits)).sum((1, 2))}
            _, maps = input_saliency(fold(network), video, objective)
            box, _ = best(clip, quantise(maps["e"][0].numpy())[0])
            assert box == best(clip, codes[number])[0]
    assert 0 < moved <= 20


def test_boxes_equal_the_stored_ones(stored):
    """box_input of every row of the plan, found again from the decoded video."""
    config, run_dir = stored
    stores = open_run(run_dir, config)
    part = stores.run.parts_of("train")[0]
    online, known = online_clips_of(stores, "late", "entropy", "source"), boxes_of(stores, part, "entropy")
    for epoch in range(0, EPOCHS, 6):
        batch = online.load(epoch, [0, 1, 2, 3])
        _, codes = online._maps(None, batch)
        for number, clip in enumerate(batch.source.clips):
            row = number * part.rows_per_video + epoch
            assert clip == part.clip(row)
            box, _ = best(clip, codes[number])
            assert (box.top, box.left, box.height, box.width) == tuple(known[row])


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {blocked!r} or name.split(".")[0] in ("zarr", "h5py"):
            raise ImportError("the online path asked for " + name)
sys.meta_path.insert(0, Block())
from pathlib import Path
import torch
torch.set_num_threads(1)
from pipeline.config_file import load
from pipeline.stages import train_online
config = load({config!r})
for fusion, network in (("late", "base"), ("concat", "current")):
    print(train_online.run(config, Path({run!r}), fusion, saliency_from=network).path)
"""


def test_it_runs_where_there_is_no_cache(trained, tmp_path):
    """Stores and their libraries cannot be imported, no product folder is there, and none appears."""
    from pipeline.config_file import to_toml

    (tmp_path / "tiny.toml").write_text(to_toml(change(trained.config, fusion={"epochs": 1})))
    blocked = [
        "cache.stores.zarr_store",
        "cache.stores.volume_store",
        "cache.reader",
        "cache.catalog",
        "pipeline.run.stores",
    ]
    script = BLOCKED.format(
        blocked=[*blocked, "pipeline.training.cached_volumes"],
        config=str(tmp_path / "tiny.toml"),
        run=str(trained.path),
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.split():
        facts = json.loads((Path(line) / "model.json").read_text())
        assert facts["name"].endswith("-online-" + facts["looker"]) and facts["num_videos"] == 4
        assert (Path(line) / "metrics.csv").exists()
    assert len(done.stdout.split()) == 2
    assert not [name for name in PRODUCTS if (trained.path / name).exists()]


def test_online_training_goes_on_where_it_stopped(trained, tmp_path, monkeypatch):
    """Killed after an epoch: the same weights as in one go."""
    config = change(trained.config, fusion={"epochs": 2})
    shutil.copytree(trained.path, tmp_path / "other")
    whole = train_online.run(config, trained.path, "late", saliency_from="current").path
    steps, real = [], OnlineClips.loss

    def loss(self, network, batch):
        steps.append(batch)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(self, network, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OnlineClips, "loss", loss)
        train_online.run(config, tmp_path / "other", "late", saliency_from="current")
    again = train_online.run(config, tmp_path / "other", "late", saliency_from="current").path
    assert json.loads((again / "model.json").read_text()) == json.loads((whole / "model.json").read_text())


def test_boxes_without_a_network_are_nobodys(tiny_run):
    with pytest.raises(StageError, match="boxes random look at no network"):
        train_online.run(tiny_run.config, tiny_run.path, "late", "random", saliency_from="current")
