"""Several processes: what each takes of a batch, and that together they train what one process trains alone."""

import copy
import gc
import os
import signal
import socket
import traceback

import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cache.commit import locked
from models.data_parallel import set_shard, synchronise_batchnorm
from pipeline.config import Training
from pipeline.training import checkpoints, loop
from pipeline.training.loader import TrainingData
from pipeline.training.loop import fit
from pipeline.workers.distributed import World, current_world, join_world

CPU = torch.device("cpu")
NUMBERS = torch.Generator().manual_seed(0)
INPUTS, WANTED = torch.randn(9, 6, 3, generator=NUMBERS), torch.randn(9, 2, 3, generator=NUMBERS)


class Net(nn.Module):
    """(B, 6, T) to (B, 2, T): linear over the channels, batch-norm, dropout, linear."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Conv1d(6, 8, 1), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Conv1d(8, 2, 1))
        self.layers[1].running_var += torch.arange(8)  # frozen statistics that matter

    def forward(self, x):
        return self.layers(x)


def load(epoch, numbers):
    return INPUTS[numbers] + epoch, WANTED[numbers]


def squared(network, batch):
    return (network(batch[0]) - batch[1]).square().mean()


# AdamW has steps of its own below: where a gradient is near 0, it makes much of a rounding error
RECIPE = {"schedule": "cosine", "warmup_epochs": 1, "clip_grad_norm": 0.05, "ema_decay": 0.7, "freeze": ("layers.0",)}


def train(folder, loss=squared, dropout=0.0, **changes):
    """Nine clips in batches of 4, 4 and 1; returns the state dict."""
    recipe = {"epochs": 2, "learning_rate": 0.1, "drop_epochs": (1,), "batch_size": 4, "batchnorm": "frozen"}
    network = Net(dropout)
    fit(network, TrainingData(load, 9, loss, "test"), Training(**recipe | changes), folder, 7)
    return network.state_dict()


def together(size, function):
    """Run function(world) in forked processes that find each other as those of torchrun do; all must succeed."""
    with socket.socket() as held:  # until all have ended, so that nobody else is given its port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # but theirs, which does the same, may listen there
        held.bind(("127.0.0.1", 0))
        children = [_child(rank, size, held.getsockname()[1], function) for rank in range(size)]
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * size


def _child(rank, size, port, function):
    """Fork a process that joins the world, calls the function and ends with 0, or with 1 after an error; its id."""
    if child := os.fork():
        return child
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    try:
        with join_world(CPU) as world:
            function(world)
            world.barrier()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def close(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-6)


def test_shards_by_hand():
    shards = [World(rank, 3).shard(5) for rank in range(3)]
    assert [list(shard.clips) for shard in shards] == [list(shard.padded) for shard in shards] == [[0, 3], [1, 4], [2]]
    assert [World(rank, 3).loss_weight(5) for rank in range(3)] == pytest.approx([6 / 5, 6 / 5, 3 / 5])
    assert [list(World(rank, 3).shard(1).padded) for rank in range(3)] == [[0], [0], [0]]  # all take part, one counts
    assert [list(World(rank, 3).shard(1).clips) for rank in range(3)] == [[0], [], []]
    assert [World(rank, 3).loss_weight(1) for rank in range(3)] == [3, 0, 0]
    assert list(World().shard(3).padded) == [0, 1, 2] and World().loss_weight(5) == 1 and World().is_main


def test_one_process_is_a_world_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    network = Net()
    with join_world(CPU) as world:
        assert world == current_world() == World(0, 1) and world.wrap(network, synchronise=True) is network
        assert type(network.layers[1]) is nn.BatchNorm1d
        assert world.mean(torch.tensor(3.0)) == 3 and world.sum(torch.tensor([3.0])) == 3
        assert world.broadcast(b"one") == b"one" and world.broadcast(True) and not world.broadcast(False)
    assert not torch.distributed.is_initialized()


def test_what_processes_tell_each_other():
    """Bytes and decisions are the first one's; sums are over all."""

    def function(world):
        assert world.broadcast(b"first" * 1000 if world.is_main else b"other") == b"first" * 1000
        assert world.broadcast(b"" if world.is_main else b"other") == b""
        assert world.broadcast(world.is_main) and not world.broadcast(not world.is_main)
        assert world.sum(torch.tensor([1.5, world.rank])).tolist() == [4.5, 3]

    together(3, function)


@pytest.mark.parametrize("batchnorm", ["frozen", "synchronised"])
@pytest.mark.parametrize(
    ("size", "batch_size", "accumulate", "clips"),
    [
        # steps of 4, 4, 1 clips; the second process has none of the last: a stand-in
        (2, 4, 1, [[2, 2, 1], [2, 2, 1]]),
        (2, 4, 2, [[2, 2, 1], [2, 2, 1]]),
        (2, 6, 1, [[3, 2], [3, 1]]),
        (3, 4, 1, [[2, 2, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_processes_train_what_one_process_trains(tmp_path, size, batch_size, accumulate, clips, batchnorm):
    """Nine clips: the same weights, statistics, losses and files, dropout included, and one writer."""
    options = {"batch_size": batch_size, "accumulate": accumulate, "batchnorm": batchnorm, "dropout": 0.5}
    expected = train(tmp_path / "alone", **options)

    def function(world):
        if not world.is_main:
            loop.write_file = loop.locked = checkpoints.write_file = None  # whoever calls them fails
        seen, exchanges = [], []

        def loss(network, batch):
            seen.append(len(batch[0]))
            exchanges.append(network.require_backward_grad_sync)
            return squared(network, batch)

        state = train(tmp_path / "team", loss, checkpoint_minutes=0.0, **options)
        assert seen == clips[world.rank] * 2
        assert exchanges == ([True] * len(seen) if accumulate == 1 else [False, True, True] * 2)
        torch.save(state, tmp_path / f"{world.rank}.pt")

    together(size, function)
    for rank in range(size):
        close(torch.load(tmp_path / f"{rank}.pt"), expected)
    last = torch.load(next((tmp_path / "team").glob("checkpoint-0002-00000000-*.pt")), weights_only=True)
    close(last["network"], expected)  # the same names: no "module."
    tables = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("alone", "team")]
    assert tables[0].loss.tolist() == pytest.approx(tables[1].loss.tolist(), rel=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_synchronised_batchnorm_is_that_of_the_whole_batch(autocast):
    """Outputs, gradients and statistics against torch's layer on all five clips; in bfloat16 to its precision."""
    kind = torch.bfloat16 if autocast else torch.float32
    x = torch.randn(5, 8, 2, 3, 4, generator=torch.Generator().manual_seed(1)).mul(3).add(7).to(kind)
    whole, theirs = nn.BatchNorm3d(8, momentum=0.3), x.clone().requires_grad_()
    nn.init.normal_(whole.weight, generator=torch.Generator().manual_seed(2))
    ours = nn.Sequential(copy.deepcopy(whole))
    (whole(theirs).square() * torch.arange(5).view(-1, 1, 1, 1, 1)).sum().backward()

    def function(world):
        synchronise_batchnorm(ours)
        set_shard(ours, world.shard(5))
        held = list(world.shard(5).padded)
        mine = x[held].clone().requires_grad_()
        (ours(mine).square() * torch.tensor(held).view(-1, 1, 1, 1, 1)).sum().backward()
        assert mine.grad.dtype == kind
        scale = theirs.grad.abs().max().float()
        assert (mine.grad - theirs.grad[held]).abs().max() <= scale * (0.03 if autocast else 1e-5)
        for name in ("weight", "bias"):  # sums over processes
            got, wanted = world.sum(getattr(ours[0], name).grad), getattr(whole, name).grad
            assert (got - wanted).abs().max() <= wanted.abs().max() * (0.03 if autocast else 1e-5)
        torch.testing.assert_close(ours[0].running_mean, whole.running_mean, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours[0].running_var, whole.running_var, rtol=1e-3, atol=1e-3)
        assert ours.state_dict().keys() == {f"0.{name}" for name in whole.state_dict()}

    together(2, function)


@pytest.mark.parametrize("batchnorm", ["frozen", "synchronised"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_recipe_is_the_same_in_several_processes(tmp_path, optimizer, batchnorm):
    """Gradients of the whole batch are clipped, over two steps; rates and the average are those of one process."""
    options = RECIPE | {"optimizer": optimizer, "learning_rate": 0.01, "accumulate": 2, "batchnorm": batchnorm}
    expected = train(tmp_path / "alone", **options)
    unclipped = train(tmp_path / "unclipped", **options | {"clip_grad_norm": 0.0})
    assert optimizer == "adamw" or (expected["layers.3.weight"] - unclipped["layers.3.weight"]).abs().max() > 1e-3

    def function(world):
        torch.save(train(tmp_path / "team", checkpoint_minutes=0.0, **options), tmp_path / f"{world.rank}.pt")

    together(2, function)
    for rank in range(2):
        close(torch.load(tmp_path / f"{rank}.pt"), expected)
    last = torch.load(next((tmp_path / "team").glob("checkpoint-0002-00000000-*.pt")), weights_only=True)
    close(last["average"], expected)
    assert torch.equal(last["network"]["layers.0.weight"], Net().state_dict()["layers.0.weight"])
    tables = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("alone", "team")]
    for name in ("loss", "learning_rate"):
        assert tables[0][name].tolist() == pytest.approx(tables[1][name].tolist(), rel=1e-5)


@pytest.mark.parametrize("options", [{}, RECIPE | {"optimizer": "adamw"}])
def test_processes_go_on_after_an_interruption_as_if_nothing_had_been(tmp_path, options):
    """Interrupted in the fifth of six steps: the same bits, dropout included, which is drawn anew in every step."""

    def function(world):
        def train_until(name, steps):
            """Train; return the state and the steps' dropout masks."""
            masks = []

            def loss(network, batch):
                if len(masks) == steps:
                    raise KeyboardInterrupt
                masks.append(network.module.layers[2](torch.ones(len(batch[0]), 8, 3)) == 0)
                return squared(network, batch)

            return train(tmp_path / name, loss, dropout=0.5, checkpoint_minutes=0.0, **options), masks

        whole, masks = train_until("whole", 6)
        with pytest.raises(KeyboardInterrupt):
            train_until("cut", 4)
        world.barrier()
        found, masks_after = train_until("cut", 6)
        assert all(torch.equal(found[name], whole[name]) for name in whole)
        assert len(masks_after) == 2 and all(map(torch.equal, masks_after, masks[4:]))
        torch.save([mask[:1] for mask in masks], tmp_path / f"masks-{world.rank}.pt")

    together(2, function)
    first, second = (torch.cat(torch.load(tmp_path / f"masks-{rank}.pt")) for rank in range(2))
    assert len(first.unique(dim=0)) == 6 and not (first == second)[[0, 1, 3, 4]].flatten(1).all(1).any()
    assert torch.equal(first[2], second[2])  # the stand-in of the single clip's step


def test_an_error_in_one_process_ends_all(tmp_path):
    """The folder is locked: the first process refuses, and torchrun ends the second one, which waits for it."""

    def train_in_process():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in torchrun's processes; a forked one has inherited another
        with join_world(CPU):
            train(tmp_path)

    free_port = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}  # by default it is always the same one
    plan = LaunchConfig(1, 1, 2, **free_port, start_method="fork", run_id="test", max_restarts=0)
    gc.collect()  # a forked process that clears away an earlier launch, whose threads it lacks, would crash
    with locked(tmp_path / ".lock"), pytest.raises(ChildFailedError) as error:
        elastic_launch(plan, train_in_process)()
    (failure,) = error.value.failures.values()
    assert failure.local_rank == 0
    assert not list(tmp_path.glob("*.pt"))
