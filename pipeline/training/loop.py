"""The training loop of Base and of both fusions: plain SGD, on one device or several, resumable within an epoch."""

import csv
import io
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cache.commit import holder, locked, write_file
from cache.folder_checks import check_space
from models.shared_batch import tell
from pipeline.config import Training
from pipeline.errors import StageError
from pipeline.training.checkpoints import _resume, _save
from pipeline.training.loader import Batch, _loader
from pipeline.training.tensorboard import Curves
from pipeline.workers import phases
from pipeline.workers.distributed import own_team
from pipeline.workers.progress import progress

log = logging.getLogger(__name__)


def fit(
    network: nn.Module,
    load: Callable[[int, list[int]], Batch],
    num_clips: int,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    training: Training,
    folder: Path,
    seed: int,
    device: torch.device,
    label: str,
    until: int | None = None,
) -> None:
    """Train a network in place, always to the last epoch; nothing is chosen on evaluation videos.

    Checkpoints go to `folder` every `checkpoint_minutes` and after each epoch; the same call goes on from the newest,
    with any number of processes. All processes of a team (`distributed.joined`) make this call; the first one writes.

    Args:
        network: on the device, with its starting weights.
        load: (epoch, clip numbers) to a batch of CPU tensors; uint8 pixels, converted on the device.
        num_clips: clips of an epoch, numbered from 0.
        loss_of: (network, batch on the device) to a scalar, the mean over the batch.
        training: the recipe.
        folder: gets metrics.csv and checkpoints.
        seed: of the order of clips and of dropout.
        label: of the progress display.
        until: stop before this epoch, so that a later call goes on from there; None for all epochs.
    Raises:
        StageError: another process trains in this folder, or the loss is not finite.
    """
    team = own_team()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", sign=True) if team.leads else nullcontext(True) as mine:
        if not mine:
            raise StageError(f"{folder}: {holder(folder / '.lock')} is training here")
        if team.leads:  # three checkpoints for a moment, each of weights and momentum
            check_space(folder, 6 * sum(value.nbytes for value in network.state_dict().values()), 3)
        team.wait()  # nobody looks for checkpoints before the folder is ours
        until = training.epochs if until is None else until
        _fit(network, load, num_clips, loss_of, training, folder, seed, device, label, team, until)


def _fit(network, load, num_clips, loss_of, training, folder, seed, device, label, team, until) -> None:
    optimiser = torch.optim.SGD(
        network.parameters(), training.learning_rate, training.momentum, weight_decay=training.weight_decay
    )
    epoch, step, losses, history = _resume(folder, network, optimiser, team)
    network.activation_checkpointing = training.activation_checkpointing  # see models/activation_checkpointing.py
    forward = team.wrap(network, training.batchnorm == "synchronised")
    steps = -(-num_clips // training.batch_size)
    curves = Curves(folder, training.tensorboard and team.leads, epoch * steps + step + 1)

    def batches():
        nonlocal epoch, step, losses
        saved = time.monotonic()
        while epoch < until:
            rate = training.learning_rate * 0.1 ** sum(epoch >= drop for drop in training.drop_epochs)
            for group in optimiser.param_groups:
                group["lr"] = rate
            _train_mode(network, training.batchnorm == "frozen")
            started, waited, asked = time.monotonic(), 0.0, time.monotonic()
            for batch in _loader(load, num_clips, training, seed, epoch, step, device):
                waited += time.monotonic() - asked
                torch.manual_seed(_dropout_seed(seed, epoch, step))
                together = min(training.batch_size, num_clips - step * training.batch_size)  # clips of all processes
                tell(network, team.share(together))
                step += 1
                moves = step % training.accumulate == 0 or step == steps
                with phases.settled("transfer", device):
                    batch = tuple(values.to(device, non_blocking=True) for values in batch)
                with phases.settled("network", device):
                    with nullcontext() if moves else team.adding(forward):
                        with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
                            loss = loss_of(forward, batch) * team.weight(together)
                        (loss / training.accumulate).backward()
                    if moves:
                        optimiser.step()
                        optimiser.zero_grad(set_to_none=True)
                    losses.append(team.mean(loss.detach()))
                if not np.isfinite(losses[-1]):
                    raise StageError(
                        f"{folder}: the loss is {losses[-1]} in epoch {epoch}, step {step}; lower the rate"
                    )
                curves.step(epoch * steps + step, losses[-1])
                due = time.monotonic() - saved > 60 * training.checkpoint_minutes
                if team.leads and due and step % training.accumulate == 0:
                    _save(folder, network, optimiser, epoch, step, losses, history)
                    saved = time.monotonic()
                yield loss
                asked = time.monotonic()
            seconds = time.monotonic() - started
            history.append(
                {
                    "epoch": epoch,
                    "learning_rate": rate,
                    "loss": float(np.mean(losses)),
                    "processes": team.size,
                    "seconds": round(seconds, 2),
                    "waiting_share": round(waited / seconds, 3),
                }
            )
            epoch, step, losses = epoch + 1, 0, []
            if team.leads:
                _save(folder, network, optimiser, epoch, step, losses, history)
                write_file(folder / "metrics.csv", _table(history))
                curves.epoch(history[-1])

    for _ in progress(batches(), max(0, (until - epoch) * steps - step), label, "steps"):
        pass
    curves.close()
    network.eval()


def _dropout_seed(*where: int) -> int:
    """Of one step: what is dropped depends on nothing that went before, an interruption included."""
    return int(np.random.default_rng(where).integers(2**63))


def _train_mode(network: nn.Module, frozen: bool) -> None:
    network.train()
    if frozen:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _table(history: list[dict]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, history[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return buffer.getvalue().encode()
