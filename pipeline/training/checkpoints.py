"""Checkpoints of a training."""

import hashlib
import io
import logging
from pathlib import Path

import torch

from cache.commit import write_file
from models.checkpoint import to_bytes
from pipeline.workers import phases
from pipeline.workers.distributed import Team

log = logging.getLogger(__name__)


def _save(folder: Path, network, optimiser, epoch: int, step: int, losses: list[float], history: list[dict]) -> None:
    """Commit a checkpoint, then drop all but the last two."""
    content = {
        "epoch": epoch,
        "step": step,
        "losses": losses,
        "history": history,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with phases.phase("write"):
        data = to_bytes(content)
        write_file(folder / f"checkpoint-{epoch:04d}-{step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt", data)
    for old in sorted(folder.glob("checkpoint-*.pt"))[:-2]:
        old.unlink()


def _resume(folder: Path, network, optimiser, team: Team) -> tuple[int, int, list[float], list[dict]]:
    """(epoch, step, losses of the epoch so far, history) of the newest checkpoint, or of a fresh start.

    The first process reads; the others take its word, for they might not see the newest file yet.
    """
    data = team.send(_newest(folder) if team.leads else b"")
    if not data:
        return 0, 0, [], []
    content = _read(data)
    network.load_state_dict(content["network"])
    optimiser.load_state_dict(content["optimiser"])
    log.info("%s: going on from epoch %d, step %d", folder, content["epoch"], content["step"])
    return content["epoch"], content["step"], content["losses"], content["history"]


def newest_checkpoint(folder: Path) -> dict | None:
    """The newest sound checkpoint, on the CPU: epoch, step, losses, history, network, optimiser; None if there is none.

    One whose SHA-256 is not that of its name is left alone, with a warning, and the one before it is taken.
    """
    data = _newest(folder)
    return _read(data) if data else None


def _newest(folder: Path) -> bytes:
    """The newest sound checkpoint; empty if there is none."""
    for path in sorted(folder.glob("checkpoint-*.pt"), reverse=True):
        data = path.read_bytes()
        if path.stem.split("-")[-1] == hashlib.sha256(data).hexdigest()[:16]:
            return data
        log.warning("%s is damaged, its SHA-256 is not that of its name; going on from the one before it", path)
    return b""


def _read(data: bytes) -> dict:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
