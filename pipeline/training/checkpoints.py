"""Checkpoints of a training: where it stands, the network and the optimiser, in files that name their own SHA-256."""

import hashlib
import io
import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from cache.commit import write_file
from cache.errors import StaleCacheError
from models.checkpoint import to_bytes
from pipeline.training.optimiser import Average
from pipeline.workers import phases
from pipeline.workers.distributed import current_world

log = logging.getLogger(__name__)
_NAME = re.compile(r"checkpoint-[0-9]{4,}-[0-9]{8,}-([0-9a-f]{16})\.pt")


@dataclass
class TrainingState:
    """Where a training stands."""

    epoch: int = 0  # that comes next
    step: int = 0  # that comes next, counted within the epoch
    losses: list[float] = field(default_factory=list)  # of the epoch's steps so far
    history: list[dict] = field(default_factory=list)  # a row of metrics.csv for each epoch that is over
    trained_on: str = ""  # identity of the labels and clips, see `TrainingData`


def save(folder: Path, network: nn.Module, optimiser: Optimizer, average: Average | None, state: TrainingState) -> None:
    """Commit a checkpoint, with the average where one is kept, then delete all but the last two."""
    content = asdict(state) | {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
    if average:
        content["average"] = average.state
    with phases.phase("write"):
        data = to_bytes(content)
        name = f"checkpoint-{state.epoch:04d}-{state.step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
        write_file(folder / name, data)
    for old in _checkpoints(folder)[:-2]:
        old.unlink()


def resume(
    folder: Path, network: nn.Module, optimiser: Optimizer, average: Average | None, trained_on: str = ""
) -> TrainingState:
    """Load the newest checkpoint into network, optimiser and average; without one, return the state of a fresh start.

    The first process reads it and sends it to the others, which might not see the newest file yet.

    Raises:
        StaleCacheError: it was trained on something else than `trained_on`. Older ones do not say on what.
    """
    world = current_world()
    data = world.broadcast(_newest(folder) if world.is_main else b"")
    if not data:
        return TrainingState(trained_on=trained_on)
    content = _read(data)
    if content.get("trained_on", trained_on) != trained_on:
        raise StaleCacheError(
            f"{folder}: its checkpoints were trained on other labels or videos, or come from another training. Restore "
            f"what was there before, or delete the folder to start anew"
        )
    network.load_state_dict(content["network"])
    optimiser.load_state_dict(content["optimiser"])
    if average:
        average.load(content["average"])
    log.info("%s: going on from epoch %d, step %d", folder, content["epoch"], content["step"])
    return TrainingState(*(content[name] for name in ("epoch", "step", "losses", "history")), trained_on)


def newest_checkpoint(folder: Path) -> dict | None:
    """Read the newest sound checkpoint to the CPU, None without one: fields of TrainingState, network, optimiser.

    With `ema_decay` also `average`, the state dict that will be the trained network's.
    """
    data = _newest(folder)
    return _read(data) if data else None


def _newest(folder: Path) -> bytes:
    """Return the newest checkpoint whose SHA-256 is that of its name; empty if there is none."""
    for path in reversed(_checkpoints(folder)):
        data = path.read_bytes()
        if _NAME.fullmatch(path.name)[1] == hashlib.sha256(data).hexdigest()[:16]:
            return data
        log.warning("%s is damaged, its SHA-256 is not that of its name; going on from the one before it", path)
    return b""


def _checkpoints(folder: Path) -> list[Path]:
    """Return what `save` wrote, by epoch and step; not a file that somebody else named checkpoint-best.pt."""
    return sorted(path for path in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(path.name))


def _read(data: bytes) -> dict:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
