"""The training loop by hand and after interruptions, and train-base: its clips, its loss, its start from a file."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cache.commit import locked
from cache.errors import StaleCacheError
from models.backbones import build
from models.checkpoint import WeightsError, read_state, state_hash
from models.data_parallel import GlobalDropout, Shard
from pipeline.config import Training
from pipeline.data.pixels import resize
from pipeline.data.sampling import resized_size
from pipeline.data.video.frames import read_frames
from pipeline.errors import StageError, VideoChanged
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.stages import train_base
from pipeline.training.base_clips import BaseClips
from pipeline.training.checkpoints import newest_checkpoint
from pipeline.training.loader import Epoch, TrainingData, num_steps
from pipeline.training.loop import fit
from tests.helpers.tiny_data import CLASSES, VIDEOS, change, tree

RNG = np.random.default_rng(0)
INPUTS, WANTED = (torch.from_numpy(RNG.normal(size=(10, 6)).astype(np.float32)) for _ in range(2))


def load(epoch, numbers):
    return INPUTS[numbers] + epoch, WANTED[numbers]


def squared(network, batch):
    return (network(batch[0]) - batch[1]).square().mean()


def recipe(**changes):
    return Training(**{"epochs": 3, "learning_rate": 0.1, "drop_epochs": (2,), "batch_size": 4, **changes})


def make_network(norm=True):
    torch.manual_seed(5)
    layers = [nn.BatchNorm1d(6), nn.Dropout(0.3)] if norm else []
    return nn.Sequential(nn.Linear(6, 6), *layers, nn.Linear(6, 6))


def train(folder, network, loss=squared, **changes):
    fit(network, TrainingData(load, 10, loss, "test"), recipe(**changes), folder, 7)
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left) and left.keys() == right.keys()


def test_the_order_of_an_epoch():
    """Every clip once, the last batch shorter; another order in every epoch and for every seed, always the same one."""
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        batches = Epoch(load, 10, 4, seed, epoch, 3).batches
        assert [len(batch) for batch in batches] == [4, 4, 2] == [len(b) for b in Epoch(load, 10, 4, 0, 0, 3).batches]
        orders[seed, epoch] = [number for batch in batches for number in batch]
        assert sorted(orders[seed, epoch]) == list(range(10))
        assert batches == Epoch(load, 10, 4, seed, epoch, 3).batches
    assert len({tuple(order) for order in orders.values()}) == 3
    (values, wanted), _ = Epoch(load, 10, 4, 0, 1, 3)[1]
    assert torch.equal(values, INPUTS[orders[0, 1][4:8]] + 1) and torch.equal(wanted, WANTED[orders[0, 1][4:8]])


@pytest.mark.parametrize(("clips", "expected"), [(10, (3, 2)), (8, (2, 2)), (3, (1, 0)), (0, (0, 0))])
def test_batches_of_an_epoch(clips, expected):
    """Of four clips each: with the last, smaller one, and without."""
    assert (num_steps(clips, recipe()), num_steps(clips, recipe(drop_last=True))) == expected


def test_drop_last_leaves_out_the_smaller_batch(tmp_path):
    """Eight of ten clips are seen in an epoch, in two steps; nothing is trained where no batch is full."""
    seen = []

    def noted(epoch, chosen):
        seen.append(chosen)
        return load(epoch, chosen)

    fit(make_network(), TrainingData(noted, 10, squared, "test"), recipe(drop_last=True, epochs=1), tmp_path, 7)
    assert [len(batch) for batch in seen] == [4, 4]
    assert seen == Epoch(load, 10, 4, 7, 0, 3).batches[:2]
    with pytest.raises(StageError, match=r"3 training clips make no batch of 4.*lower batch_size"):
        fit(make_network(), TrainingData(load, 3, squared, "test"), recipe(drop_last=True), tmp_path / "none", 7)


@pytest.mark.parametrize(
    ("clips", "changes", "warned"),
    [(9, {}, True), (9, {"drop_last": True}, False), (9, {"batchnorm": "frozen"}, False), (10, {}, False)],
)
def test_a_last_batch_of_one_clip_is_warned_of(tmp_path, caplog, clips, changes, warned):
    fit(make_network(norm=False), TrainingData(load, clips, squared, "test"), recipe(epochs=1, **changes), tmp_path, 7)
    assert ("the last batch of every epoch has one clip" in caplog.text) == warned


def test_batch_norm_on_a_batch_of_one_clip_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(StageError, match=r"batch of one clip .*drop_last = true leaves it out"):
        train(tmp_path / "a", make_network(), batch_size=9)
    train(tmp_path / "b", make_network(), batch_size=9, drop_last=True)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error", [VideoChanged("a.mp4 has 3 bytes"), PermissionError(13, "Permission denied", "a.mp4")]
)
def test_an_error_of_a_loader_process_is_the_one_it_raised(tmp_path, workers, error):
    """PyTorch puts the traceback of the process into the message, 30 lines, and the name of the file at their end."""

    def fails(epoch, numbers):
        raise error

    with pytest.raises(type(error)) as raised:
        fit(make_network(), TrainingData(fails, 10, squared, "test"), recipe(loader_workers=workers), tmp_path, 7)
    assert str(raised.value) == str(error)


def test_sgd_by_hand(tmp_path):
    """One weight, loss mean((w - x)^2): momentum 0.9, weight decay, the rate divided by ten at epoch 1."""

    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(2.0))

    network, xs = Weight(), torch.tensor([1.0, -2.0, 4.0])
    data = TrainingData(
        lambda epoch, numbers: (xs[numbers],), 3, lambda network, batch: (network.w - batch[0]).square().mean(), "test"
    )
    training = Training(epochs=2, learning_rate=0.1, drop_epochs=(1,), batch_size=2, momentum=0.9, weight_decay=0.01)
    fit(network, data, training, tmp_path, 3)
    w, velocity, losses = 2.0, 0.0, []
    for epoch, rate in ((0, 0.1), (1, 0.01)):
        order = np.random.default_rng([3, epoch]).permutation(3)
        epoch_losses = []
        for batch in (order[:2], order[2:]):
            values = xs.numpy()[batch].astype(float)
            epoch_losses.append(((w - values) ** 2).mean())
            velocity = 0.9 * velocity + 2 * (w - values).mean() + 0.01 * w
            w -= rate * velocity
        losses.append(np.mean(epoch_losses))
    assert network.w.item() == pytest.approx(w, rel=1e-6) and not network.training
    found = pd.read_csv(tmp_path / "metrics.csv")
    assert found.epoch.tolist() == [0, 1] and found.learning_rate.tolist() == pytest.approx([0.1, 0.01])
    assert found.loss.tolist() == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_interrupted_training_goes_on_as_if_nothing_had_been(tmp_path, steps, accumulate):
    """Raise in step 2, 3, 4 (a new epoch), 6 and 9: weights, batch-norm and losses as without interruption."""
    expected = train(tmp_path / "whole", make_network(), accumulate=accumulate)
    calls = 0

    def failing(network, batch):
        nonlocal calls
        calls += 1
        if calls > steps:
            raise KeyboardInterrupt
        return squared(network, batch)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", make_network(), failing, accumulate=accumulate, checkpoint_minutes=0.0)
    torch.rand(3)  # whatever else the process does
    again = []
    found = train(
        tmp_path / "cut", make_network(), lambda *args: again.append(1) or squared(*args), accumulate=accumulate
    )
    assert equal(found, expected)
    lost = steps % 3 % accumulate  # steps whose gradients had not been applied
    assert len(again) == 9 - steps + lost
    tables = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "cut")]
    assert tables[0][["epoch", "learning_rate", "loss"]].equals(tables[1][["epoch", "learning_rate", "loss"]])


def test_a_file_of_somebody_else_is_no_checkpoint(tmp_path):
    """It neither takes the place of one nor is deleted, and is not called damaged."""
    theirs = [tmp_path / name for name in ("checkpoint-best.pt", "checkpoint-0000-keep.pt", "checkpoint-0001.pt")]
    for path in theirs:
        path.write_bytes(b"mine")
    train(tmp_path, make_network(), checkpoint_minutes=0.0)
    assert all(path.read_bytes() == b"mine" for path in theirs)
    assert len(list(tmp_path.glob("checkpoint-*.pt"))) == 3 + 2
    assert newest_checkpoint(tmp_path)["epoch"] == 3


def test_checkpoints_are_few_safe_and_end_with_the_last_epoch(tmp_path):
    state = train(tmp_path, make_network(), checkpoint_minutes=0.0)
    names = [path.name for path in sorted(tmp_path.glob("checkpoint-*.pt"))]
    assert [name[:24] for name in names] == ["checkpoint-0002-00000003", "checkpoint-0003-00000000"]
    content = torch.load(tmp_path / names[-1], weights_only=True)
    assert equal(content["network"], state) and content["epoch"] == 3
    before = tree(tmp_path)
    assert equal(train(tmp_path, make_network()), state) and tree(tmp_path) == before  # all done: nothing happens


def test_a_checkpoint_of_other_labels_is_refused(tmp_path):
    """What it was trained on is part of it; going on would mix both without a word."""
    first = TrainingData(load, 10, squared, "test", "labels of yesterday")
    fit(make_network(), first, recipe(), tmp_path, 7, until=1)
    before = tree(tmp_path)
    with pytest.raises(StaleCacheError, match=r"were trained on other labels or videos.*delete the folder"):
        fit(make_network(), first._replace(identity="labels of today"), recipe(), tmp_path, 7)
    assert tree(tmp_path) == before
    fit(make_network(), first, recipe(), tmp_path, 7)
    assert newest_checkpoint(tmp_path)["epoch"] == recipe().epochs


def test_accumulated_gradients_are_those_of_the_large_batch(tmp_path):
    """Two steps of four clips move the weights as one of eight does; what is left at the end is applied, too."""
    numbers = Epoch(load, 8, 8, 7, 0, 1).batches[0]

    def first_eight(epoch, chosen):
        return INPUTS[chosen], WANTED[chosen]

    states = []
    for size, accumulate in ((8, 1), (4, 2)):
        network = make_network(norm=False)
        options = recipe(batch_size=size, accumulate=accumulate, epochs=2, weight_decay=0.01)
        fit(network, TrainingData(first_eight, 8, squared, "test"), options, tmp_path / str(size), 7)
        states.append(network.state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-5, atol=1e-6)
    assert sorted(numbers) == list(range(8))
    # three steps, two of them accumulated: the third moves the weights as well
    seen = []

    def watched(network, batch):
        seen.append(network[0].weight.detach().clone())
        return squared(network, batch)

    state = train(tmp_path / "rest", make_network(norm=False), watched, accumulate=2, epochs=1)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[2], state["0.weight"])


def test_frozen_batchnorm_keeps_its_statistics_but_learns(tmp_path):
    start = {name: value.clone() for name, value in make_network().state_dict().items()}
    frozen = train(tmp_path / "frozen", make_network(), batchnorm="frozen")
    moving = train(tmp_path / "moving", make_network())
    buffers = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert all(torch.equal(frozen[name], start[name]) for name in buffers)
    assert not any(torch.equal(moving[name], start[name]) for name in buffers)
    assert not torch.equal(frozen["1.weight"], start["1.weight"])


HOLDER = rf"process {os.getpid()} on .* is training here"


def test_one_process_at_a_time(tmp_path):
    tmp_path.mkdir(exist_ok=True)
    with (
        locked(tmp_path / ".lock", sign=True) as mine,
        pytest.raises(StageError, match=f"process {os.getpid()} on .* is training here"),
    ):
        assert mine
        train(tmp_path, make_network())
    train(tmp_path, make_network())


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(StageError, match=r"the loss is nan in epoch 0, step 1; lower the rate"):
        train(tmp_path, make_network(), lambda network, batch: squared(network, batch) * float("nan"))


def base_clips(run, **sections):
    """With some settings changed."""
    return BaseClips(open_folder(run.path, run.config), change(run.config, **sections))


def test_clips_of_base_by_hand(tiny_run):
    """One crop and flip of resized frames, labels of the very frames that are shown; another theta in every epoch."""
    clips = base_clips(tiny_run)
    ids = [video.video_id for video in clips.videos]
    assert ids == [one for one in VIDEOS if VIDEOS[one][0] == "train"]
    seen = set()
    for number, video_id in enumerate(ids):
        _, size, fps, count, classes = VIDEOS[video_id]
        frames = dict(read_frames(tiny_run.data / f"{video_id}.mp4", range(-(-count * 8 // fps)), 8.0))
        small = {index: resize(frame, resized_size(size, tiny_run.config.clips)) for index, frame in frames.items()}
        for epoch in range(4):
            volumes, video, targets = clips.load(epoch, [number])
            assert volumes.shape == (1, 4, 28, 28, 3) and volumes.dtype == torch.uint8
            assert np.flatnonzero(video[0]).tolist() == list(classes)
            _, times = clips._clip(epoch, number)
            expected = np.zeros((4, 3))
            expected[np.ix_(times <= 0.9, classes)] = 1
            assert targets[0].tolist() == expected.tolist()
            shown = np.stack([small[round(time * 8)] for time in times])
            ways = [
                (top, left, way)
                for top in range(shown.shape[1] - 27)
                for left in range(shown.shape[2] - 27)
                for way in (1, -1)
                if np.array_equal(shown[:, top : top + 28, left : left + 28][:, :, ::way], volumes[0])
            ]
            assert len(ways) == 1
            seen.add((video_id, times[0], *ways))
    assert len(seen) > 12 and {way for *_, (_, _, way) in seen} == {1, -1}
    batch = clips.load(1, [2, 0])
    for values, one, two in zip(batch, clips.load(1, [2]), clips.load(1, [0]), strict=True):
        assert torch.equal(values, torch.cat([one, two]))


def test_videos_in_memory_give_the_same_clips(tiny_run):
    on_disk = base_clips(tiny_run)
    held = base_clips(tiny_run, base={"in_memory": True})
    for epoch in range(2):
        for left, right in zip(on_disk.load(epoch, [0, 1, 2, 3]), held.load(epoch, [0, 1, 2, 3]), strict=True):
            assert torch.equal(left, right)


def test_the_loss_uses_every_time_step(tiny_run):
    """T_out = 2 steps become 4 frames by 1:0, 2:1, 1:2, 0:1; the video term takes their mean."""
    clips = base_clips(tiny_run)
    batch = clips.load(0, [0, 1, 2])
    logits = torch.tensor(np.random.default_rng(2).normal(size=(3, 2, 3)) * 3)
    loss = clips.loss(lambda video: logits, batch)
    _, video, frames = (values.numpy().astype(float) for values in batch)

    def cross_entropy(z, y):
        return (np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y).mean()

    z = logits.numpy()
    spread = np.einsum("ft,btc->bfc", np.array([[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]]), z)
    assert loss.item() == pytest.approx(cross_entropy(z.mean(1), video) + cross_entropy(spread, frames), rel=1e-5)
    assert len({tuple(frames[0, t]) for t in range(4)} | {tuple(frames[1, t]) for t in range(4)}) > 1


def test_train_base_writes_what_it_was_made_from(tiny_run):
    folder = base_folder(open_folder(tiny_run.path, tiny_run.config), tiny_run.config)
    facts = json.loads((folder / "base.json").read_text())
    assert facts["weights"] == state_hash(read_state(folder / "weights.pt"))
    assert (facts["num_classes"], facts["out_frames"], facts["num_videos"]) == (3, 2, 4)
    assert pd.read_csv(folder / "metrics.csv").learning_rate.tolist() == pytest.approx([0.05, 0.005])
    before = tree(tiny_run.path)
    assert train_base.run(tiny_run.config, tiny_run.path).summary.startswith("already trained")
    assert tree(tiny_run.path) == before


def test_weights_from_a_file(trained, tmp_path):
    """Taken as they are with epochs 0; another head must be asked for; a new one leaves the rest as loaded."""
    network = build("small_i3d", 3)
    torch.save(network.state_dict(), tmp_path / "three.pt")
    config = change(trained.config, base={"epochs": 0, "init": str(tmp_path / "three.pt")})
    folder = train_base.run(config, trained.path).path
    assert equal(read_state(folder / "weights.pt"), network.state_dict())

    network = build("small_i3d", 5)
    torch.save(network.state_dict(), tmp_path / "five.pt")
    config = change(trained.config, base={"epochs": 0, "init": str(tmp_path / "five.pt")})
    with pytest.raises(WeightsError, match=r"fc.weight.*\(5, .*needs \(3, "):
        train_base.run(config, trained.path)
    outcome = train_base.run(change(config, base={"new_head": True}), trained.path)
    assert "new: fc.bias, fc.weight" in outcome.summary
    state = read_state(outcome.path / "weights.pt")
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items() if "fc" not in name)
    with pytest.raises(StageError, match="nothing to start from"):
        train_base.run(change(config, base={"init": ""}), trained.path)


def test_the_key_of_base_holds_what_changes_its_weights(tiny_run):
    def folder(**sections):
        config = change(tiny_run.config, **sections)
        return base_folder(open_folder(tiny_run.path, config), config)

    same = [{}, {"base": {"checkpoint_minutes": 1.0}}, {"base": {"in_memory": True}}, {"saliency": {"box_side": 3}}]
    other = [
        {"seed": 1},
        {"base": {"learning_rate": 0.1}},
        {"clips": {"fps": 4.0}},
        {"base": {"batchnorm": "frozen"}},
    ]
    assert len({folder(**sections) for sections in same}) == 1
    assert len({folder(**sections) for sections in [{}, *other]}) == 5


def test_training_needs_a_training_video(own_videos, tmp_path):
    from pipeline.stages import prepare

    (tmp_path / "test.csv").write_text(f"video_id,split,start,end,label\nT0002,test,,,{CLASSES[0]}\n")
    config = change(own_videos.config, data={"annotations": (str(tmp_path / "test.csv"),)})
    prepare.run(config, tmp_path / "other")
    with pytest.raises(StageError, match="the plan has no training video"):
        train_base.run(config, tmp_path / "other")
    assert Epoch(load, 0, 4, 0, 0, 0).batches == []


def test_dropout_of_time_folded_into_the_batch_is_drawn_for_each_row():
    """As in TimeSformer: (B K, ...), the rows of a clip together; this process has clips 1 and 3 of four."""
    layer = GlobalDropout(torch.nn.Dropout(0.5)).train()
    layer.shard = Shard(4, rank=1, world_size=2)
    torch.manual_seed(0)
    found = layer(torch.ones(6, 50))
    torch.manual_seed(0)
    whole = torch.nn.functional.dropout(torch.ones(4, 3, 50), 0.5)
    assert torch.equal(found, whole[[1, 3]].flatten(0, 1))
    with pytest.raises(ValueError, match="expected as many rows for each of the 2 clips"):
        layer(torch.ones(5, 50))
