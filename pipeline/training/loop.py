"""The training loop of Base and of both fusions, on one device or several, resumable within an epoch."""

import logging
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from cache.commit import holder, locked
from cache.errors import DamagedError
from cache.folder_checks import check_space
from cache.sealed import write_record
from cache.table_files import read_csv
from models.data_parallel import set_shard
from models.precision import tf32
from pipeline.config import Training
from pipeline.errors import StageError
from pipeline.training.checkpoints import TrainingState, newest_checkpoint, resume, save
from pipeline.training.loader import TrainingData, epoch_batches, num_steps, to_device
from pipeline.training.optimiser import Average, learning_rate, make_optimiser, set_rate, stored_copies, train_mode
from pipeline.training.tensorboard import Curves
from pipeline.workers import phases
from pipeline.workers.distributed import current_world
from pipeline.workers.progress import progress

log = logging.getLogger(__name__)


def fit(
    network: nn.Module, data: TrainingData, training: Training, folder: Path, seed: int, until: int | None = None
) -> None:
    """Train a network in place, always to the last epoch; nothing is chosen on evaluation videos.

    Checkpoints go to `folder` every `checkpoint_minutes` and after each epoch; the same call goes on from the newest,
    with any number of processes. All processes of torchrun make this call; the first one writes.

    Args:
        network: on the device, with its starting weights.
        folder: gets metrics.csv and checkpoints.
        seed: of the order of clips and of dropout.
        until: stop before this epoch, so that a later call goes on from there; None for all epochs.
    Raises:
        StageError: there is no clip, another process trains in this folder, the loss is not finite, or the recipe does
            not fit the network, see `make_optimiser`.
    """
    if not data.num_clips:
        raise StageError("the plan has no training video; check the split in the annotations")
    if not num_steps(data.num_clips, training):
        short = f"{data.num_clips} training clips make no batch of {training.batch_size}"
        raise StageError(f"{short}, and drop_last leaves out smaller ones; lower batch_size")
    world = current_world()
    if data.num_clips % training.batch_size == 1 and not training.drop_last and training.batchnorm != "frozen":
        log.warning(
            "the last batch of every epoch has one clip, with whose statistics alone batch-norm then works; "
            "drop_last = true leaves it out, another batch_size avoids it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", sign=True) if world.is_main else nullcontext(True) as mine:
        if not mine:
            raise StageError(f"{folder}: {holder(folder / '.lock')} is training here")
        if world.is_main:  # three checkpoints for a moment
            state = sum(value.nbytes for value in network.state_dict().values())
            check_space(folder, 3 * stored_copies(training) * state, 3)
        world.barrier()  # no process reads checkpoints before the folder is ours
        try:
            with tf32(training.tf32):
                _train(network, data, training, folder, seed, training.epochs if until is None else until)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # PyTorch's, of batch-norm
                raise
            advice = "drop_last = true leaves it out, another batch_size avoids it, batchnorm = 'frozen' needs no other"
            raise StageError(f"{folder}: batch-norm cannot work on a batch of one clip ({error}); {advice}") from error


def _train(network: nn.Module, data: TrainingData, training: Training, folder: Path, seed: int, until: int) -> None:
    """Go on from the newest checkpoint to epoch `until`."""
    world, device = current_world(), next(network.parameters()).device
    optimiser = make_optimiser(network, training)
    average = Average(network, training.ema_decay) if training.ema_decay else None
    state = resume(folder, network, optimiser, average, data.identity)
    if world.is_main and state.history:  # its files may be those of a checkpoint before, or lost
        write_metrics(folder, state.history)
    network.activation_checkpointing = training.activation_checkpointing  # see models/activation_checkpointing.py
    forward = world.wrap(network, training.batchnorm == "synchronised")
    steps = num_steps(data.num_clips, training)  # of an epoch
    per_epoch = -(-steps // training.accumulate)  # steps of the optimiser
    curves = Curves(folder, training.tensorboard and world.is_main, state.epoch * steps + state.step + 1)
    left = max(0, (until - state.epoch) * steps - state.step)
    shown, saved = progress(range(left), left, data.label, "steps"), time.monotonic()

    while state.epoch < until:
        train_mode(network, training)
        started, waited, asked = time.monotonic(), 0.0, time.monotonic()
        for batch in epoch_batches(data, training, seed, state.epoch, state.step, device.type == "cuda"):
            waited += time.monotonic() - asked
            next(shown)
            torch.manual_seed(_dropout_seed(seed, state.epoch, state.step))
            together = min(training.batch_size, data.num_clips - state.step * training.batch_size)  # of all processes
            set_shard(network, world.shard(together))
            state.step += 1
            moves = state.step % training.accumulate == 0 or state.step == steps
            with phases.device_phase("transfer", device):
                batch = to_device(batch, device)
            with phases.device_phase("network", device):
                with nullcontext() if moves else world.no_sync(forward):
                    with torch.autocast(device.type, torch.bfloat16, enabled=training.autocast):
                        loss = data.loss(forward, batch) * world.loss_weight(together)
                    (loss / training.accumulate).backward()
                if moves:
                    number = state.epoch * per_epoch + (state.step - 1) // training.accumulate
                    set_rate(optimiser, learning_rate(training, number, per_epoch))
                    if training.clip_grad_norm:
                        nn.utils.clip_grad_norm_(network.parameters(), training.clip_grad_norm)
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
                    if average:
                        average.update(network, number + 1)
                state.losses.append(world.mean(loss.detach()))
            if not np.isfinite(state.losses[-1]):
                where = f"epoch {state.epoch}, step {state.step}"
                raise StageError(f"{folder}: the loss is {state.losses[-1]} in {where}; lower the rate")
            curves.step(state.epoch * steps + state.step, state.losses[-1])
            due = time.monotonic() - saved > 60 * training.checkpoint_minutes
            if world.is_main and due and state.step % training.accumulate == 0:
                save(folder, network, optimiser, average, state)
                saved = time.monotonic()
            asked = time.monotonic()
        seconds = time.monotonic() - started
        rate = learning_rate(training, (state.epoch + 1) * per_epoch - 1, per_epoch)  # of the epoch's last step
        row = {"epoch": state.epoch, "learning_rate": rate, "loss": float(np.mean(state.losses))}
        row |= {"processes": world.size, "seconds": round(seconds, 2), "waiting_share": round(waited / seconds, 3)}
        state = TrainingState(state.epoch + 1, history=[*state.history, row], trained_on=data.identity)
        if world.is_main:
            save(folder, network, optimiser, average, state)
            write_metrics(folder, state.history)
            curves.epoch(row)
    next(shown, None)  # says that the last step is done
    curves.close()
    if average:
        network.load_state_dict(average.state)
    network.eval()


def write_metrics(folder: Path, history: list[dict]) -> None:
    """Write metrics.csv, a row an epoch, and training.json, which vouches for it."""
    write_record(folder / "training.json", {}, {"metrics.csv": pd.DataFrame(history).to_csv(index=False).encode()})


def restore_metrics(folder: Path) -> None:
    """Write metrics.csv of a finished training anew from the newest checkpoint, where it is lost or not as written."""
    try:
        read_csv(folder / "metrics.csv", ("epoch",))
    except DamagedError:
        checkpoint = newest_checkpoint(folder) if current_world().is_main else None
        if checkpoint and checkpoint["history"]:
            write_metrics(folder, checkpoint["history"])


def _dropout_seed(*where: int) -> int:
    """Return the seed of one step, which depends on its place alone, so that a resumed training drops the same."""
    return int(np.random.default_rng(where).integers(2**63))
