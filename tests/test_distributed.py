"""Several processes: what each takes of a batch, and that together they train what one process trains alone."""

import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_data import change
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cache.commit import locked
from models.checkpoint import read_state
from pipeline import train_fusion, training
from pipeline.config import Training, to_toml
from pipeline.distributed import Team, joined, own_team
from pipeline.training import fit

CPU = torch.device("cpu")
NUMBERS = torch.Generator().manual_seed(0)
INPUTS, WANTED = torch.randn(9, 6, generator=NUMBERS), torch.randn(9, 2, generator=NUMBERS)


class Net(nn.Module):
    """Linear, batch-norm, dropout, linear."""

    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Linear(8, 2))
        self.layers[1].running_var += torch.arange(8)  # frozen statistics that matter

    def forward(self, x):
        return self.layers(x)


def load(epoch, numbers):
    return INPUTS[numbers] + epoch, WANTED[numbers]


def squared(network, batch):
    return (network(batch[0]) - batch[1]).square().mean()


def train(folder, loss=squared, dropout=0.0, **changes):
    """Nine clips in batches of 4, 4 and 1; returns the state dict."""
    recipe = {"epochs": 2, "learning_rate": 0.1, "drop_epochs": (1,), "batch_size": 4, "freeze_batchnorm": True}
    network = Net(dropout)
    fit(network, load, 9, loss, Training(**recipe | changes), folder, 7, CPU, "test")
    return network.state_dict()


def together(size, function):
    """Run function(team) in forked processes that find each other as those of torchrun do; all must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_PORT": str(port)}
            try:
                with joined(CPU) as team:
                    function(team)
                    team.wait()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * size


def close(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-6)


def test_shares_by_hand():
    batch = [7, 3, 9, 1, 5]
    assert [Team(rank, 3).share(batch) for rank in range(3)] == [[7, 1], [3, 5], [9]]
    assert [Team(rank, 3).weight(5) for rank in range(3)] == pytest.approx([6 / 5, 6 / 5, 3 / 5])
    assert [Team(rank, 3).share([7]) for rank in range(3)] == [[7], [7], [7]]  # all take part, one counts
    assert [Team(rank, 3).weight(1) for rank in range(3)] == [3, 0, 0]
    assert Team().share(batch) == batch and Team().weight(5) == 1 and Team().leads


def test_one_process_is_a_team_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    network = Net()
    with joined(CPU) as team:
        assert team == own_team() == Team(0, 1) and team.wrap(network) is network
        assert team.mean(torch.tensor(3.0)) == 3
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("size", "batch_size", "accumulate", "clips"),
    [
        (
            2,
            4,
            1,
            [[2, 2, 1], [2, 2, 1]],
        ),  # steps of 4, 4, 1 clips; the second process has none of the last: a stand-in
        (2, 4, 2, [[2, 2, 1], [2, 2, 1]]),
        (2, 6, 1, [[3, 2], [3, 1]]),
        (3, 4, 1, [[2, 2, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_a_team_trains_what_one_process_trains(tmp_path, size, batch_size, accumulate, clips):
    """Nine clips: the same weights, losses and files, and one writer."""
    options = {"batch_size": batch_size, "accumulate": accumulate}
    expected = train(tmp_path / "alone", **options)

    def function(team):
        if not team.leads:
            training.write_file = training.locked = None  # whoever calls them fails
        seen, exchanges = [], []

        def loss(network, batch):
            seen.append(len(batch[0]))
            exchanges.append(network.require_backward_grad_sync)
            return squared(network, batch)

        state = train(tmp_path / "team", loss, checkpoint_minutes=0.0, **options)
        assert seen == clips[team.rank] * 2
        assert exchanges == ([True] * len(seen) if accumulate == 1 else [False, True, True] * 2)
        torch.save(state, tmp_path / f"{team.rank}.pt")

    together(size, function)
    for rank in range(size):
        close(torch.load(tmp_path / f"{rank}.pt"), expected)
    last = torch.load(next((tmp_path / "team").glob("checkpoint-0002-00000000-*.pt")), weights_only=True)
    close(last["network"], expected)  # the same names: no "module."
    tables = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("alone", "team")]
    assert tables[0].loss.tolist() == pytest.approx(tables[1].loss.tolist(), rel=1e-5)


def test_a_team_goes_on_after_an_interruption_as_if_nothing_had_been(tmp_path):
    """Interrupted in the fifth of six steps: the same bits, dropout included, which differs between processes."""

    def function(team):
        def train_until(name, steps):
            """Train; return the state and the steps' dropout masks."""
            masks = []

            def loss(network, batch):
                if len(masks) == steps:
                    raise KeyboardInterrupt
                masks.append(network.module.layers[2](torch.ones(4, 8)) == 0)
                return squared(network, batch)

            return train(tmp_path / name, loss, dropout=0.5, checkpoint_minutes=0.0), masks

        whole, masks = train_until("whole", 6)
        with pytest.raises(KeyboardInterrupt):
            train_until("cut", 4)
        team.wait()
        found, masks_after = train_until("cut", 6)
        assert all(torch.equal(found[name], whole[name]) for name in whole)
        assert len(masks_after) == 2 and torch.equal(torch.stack(masks_after), torch.stack(masks[4:]))
        torch.save(torch.stack(masks), tmp_path / f"masks-{team.rank}.pt")

    together(2, function)
    first, second = (torch.load(tmp_path / f"masks-{rank}.pt") for rank in range(2))
    assert len(first.unique(dim=0)) == 6 and not (first == second).flatten(1).all(1).any()


def torchrun(tiny, config):
    """`torchrun -m pipeline train-fusion --fusion late` in two processes."""
    (tiny.path / "tiny.toml").write_text(to_toml(config))
    # without "--" torchrun would take --run for an abbreviation of an option of its own
    stage = ["-m", "--", "pipeline", "train-fusion", "--fusion", "late", "--run", str(tiny.path)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *stage]
    command += ["--config", str(tiny.path / "tiny.toml")]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100)
    return found.returncode, found.stdout, found.stderr


def test_train_fusion_through_torchrun(tiny_copy):
    """Three clips a batch of four videos, so 2 + 1 and 1 + 0: the weights of one process, said and written once."""
    config = change(tiny_copy.config, fusion={"freeze_batchnorm": True, "batch_size": 3, "epochs": 1})
    alone = train_fusion.run(config, tiny_copy.path, "late").path
    expected, lines = read_state(alone / "weights.pt"), (alone / "metrics.csv").read_text().splitlines()
    for path in alone.iterdir():
        path.unlink()
    code, out, err = torchrun(tiny_copy, config)
    assert code == 0, err
    assert out.count("wrote") == 1 and err.count("2/2 steps") == 1
    close(read_state(alone / "weights.pt"), expected)
    found = (alone / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in found] == [line.split(",")[:2] for line in lines]
    assert float(found[1].split(",")[2]) == pytest.approx(float(lines[1].split(",")[2]), rel=1e-5)


def test_an_error_in_one_process_ends_all(tmp_path):
    """The folder is locked: the first process refuses, and torchrun ends the second one, which waits for it."""

    def train_in_team():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in torchrun's processes; a forked one has inherited another
        with joined(CPU):
            train(tmp_path)

    plan = LaunchConfig(1, 1, 2, rdzv_backend="c10d", start_method="fork", run_id="test", max_restarts=0)
    with locked(tmp_path / ".lock"), pytest.raises(ChildFailedError) as error:
        elastic_launch(plan, train_in_team)()
    (failure,) = error.value.failures.values()
    assert failure.local_rank == 0
    assert not list(tmp_path.glob("*.pt"))
