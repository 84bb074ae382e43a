"""train-base: fine-tune a video network into Charades-Base (paper 5.2, 5.3), with new augmentations every epoch."""

import logging
from functools import partial
from pathlib import Path

import torch
from torch import nn

from cache.fingerprint import fingerprint
from models.backbones import build, count_out_frames, head_names
from models.checkpoint import WeightsError, load_weights
from models.clip_length import check_clips
from models.compiled import compile_network
from models.grad_cam import last_block
from models.hf_network import is_folder, label_names, load_folder
from models.i3d import inflate_2d
from models.own_network import check_contract, check_rebuilt, is_reference
from models.saliency import patch_embedding
from pipeline.config import Config
from pipeline.errors import StageError
from pipeline.run.folder import RunFolder, holds_run, open_folder
from pipeline.run.networks import base_folder, load_base, own_network, write_network
from pipeline.run.outcome import Outcome
from pipeline.training.base_clips import BaseClips
from pipeline.training.loader import TrainingData
from pipeline.training.loop import fit, restore_metrics
from pipeline.training.optimiser import make_optimiser
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import join_world

log = logging.getLogger(__name__)


@holds_run
def run(config: Config, run_dir: Path) -> Outcome:
    """Train Base on the training videos of the plan, or take its first weights as they are where `base.epochs` is 0.

    Reads the plan, the labels, the videos and the first weights, of `base.init` or hf:FOLDER. Writes
    models/base-<key>/: weights.pt, base.json (what it was made from), metrics.csv, checkpoints.

    Raises:
        StageError: there is no training video, or no training asked for and no weights given, or the network cannot
            take such clips, or be trained by such a recipe.
        NetworkError: a network of the user's breaks the contract, or takes other clips.
        WeightsError: the first weights do not fit; names every key.
    """
    device = pick_device(config.device)
    with join_world(device):
        run = open_folder(run_dir, config)
        folder = base_folder(run, config)
        if (folder / "base.json").exists():
            base = load_base(run, config)
            restore_metrics(folder)
            return Outcome(folder, f"already trained: {base.network}, weights {base.sha256[:12]}")
        if not config.base.epochs and not config.base.init and not is_folder(config.base.network):
            raise StageError("base.epochs is 0 and base.init names no weights: there is nothing to start from")
        torch.manual_seed(config.seed)
        network, left_out = _starting_network(run, config)
        check_clips(network, config.base.network, config.clips.num_frames, config.clips.input_side)
        if is_reference(config.base.network) or is_folder(config.base.network):
            _check_own_network(network, config, len(run.classes))
        if config.saliency.gradient_at == "patches":
            patch_embedding(network)  # refuses a network without one
        if config.saliency.method == "grad_cam":
            last_block(network)
        out_frames = _out_frames(network, config)
        if config.base.epochs:
            make_optimiser(network, config.base)  # refuses a recipe that does not fit, before a video is decoded
        clips = BaseClips(run, config)
        facts = {
            "network": config.base.network,
            **own_network(config),
            "num_classes": len(run.classes),
            "classes": run.classes,
            "out_frames": out_frames,
            "init_left_out": left_out,
            "num_videos": len(clips.videos),
            "labels_sha256": run.labels_sha256,
            "plan": {part.name: part.rows_sha256 for part in run.parts_of("train")},
        }
        compile_network(network.to(device), config.base.compile and config.base.epochs > 0)
        if config.base.epochs:
            identity = fingerprint({"folder": folder.name, **{name: facts[name] for name in ("labels_sha256", "plan")}})
            data = TrainingData(clips.load, len(clips.videos), clips.loss, "train-base", identity)
            fit(network, data, config.base, folder, config.seed)
        weights = write_network(folder / "base.json", network, facts, config)
    summary = f"{config.base.network}, {config.base.epochs} epochs on {len(clips.videos)} videos"
    return Outcome(folder, f"{summary}; weights {weights[:12]}; new: {', '.join(left_out) or 'nothing'}")


def _check_own_network(network: nn.Module, config: Config, classes: int) -> None:
    """Raise NetworkError or StageError where a network of the user's own breaks the contract, or cannot be trained."""
    clips = config.clips.num_frames, config.clips.input_side
    check_contract(network, *clips, classes)
    check_rebuilt(network, build(config.base.network, classes, **dict(config.base.options)), *clips)
    if config.base.epochs and not any(one.requires_grad for one in network.parameters()):
        raise StageError(f"{config.base.network}: no parameter requires a gradient, so nothing can be trained")


def _out_frames(network: nn.Module, config: Config) -> int:
    """Return T_out; raise StageError where the network cannot take clips of this length and size."""
    frames, side = config.clips.num_frames, config.clips.input_side
    try:
        return count_out_frames(network, frames, side)
    except (ValueError, RuntimeError) as error:
        clips = f"clips of clips.num_frames = {frames} at clips.input_side = {side}"
        raise StageError(f"{config.base.network} cannot take {clips}: {error}") from error


def _starting_network(run: RunFolder, config: Config) -> tuple[nn.Module, list[str]]:
    """Build the network and load `base.init`; return it and the keys that `base.init` did not fill."""
    classes = run.classes
    network = build(config.base.network, len(classes), **dict(config.base.options))
    new_head, from_folder = config.base.new_head or config.base.inflate, is_folder(config.base.network)
    if from_folder and not config.base.init:
        left = load_folder(network, config.base.network, new_head)
        if not new_head:
            _check_labels(label_names(config.base.network), run.classes, config)
        return network, left
    if not config.base.init:
        return network, []
    inflate = partial(inflate_2d, network=network) if config.base.inflate else None
    if new_head and not head_names(network):
        raise StageError(
            f"base.new_head: {config.base.network} does not say in an attribute head_name which module it is"
        )
    try:
        return network, load_weights(network, config.base.init, head_names(network), new_head, inflate)
    except WeightsError as error:
        here = f"{len(classes)} classes in {run.path / 'classes.txt'}, from {config.data.classes}"
        raise WeightsError(f"{error}\nThis run has {here}.") from error


def _check_labels(labels: list[str], classes: list[str], config: Config) -> None:
    """Compare the class names of hf:FOLDER with those of the run; refuse others where its classifier stays as it is."""
    name = config.base.network
    if labels == classes:
        return
    if all(label == f"LABEL_{number}" for number, label in enumerate(labels)):
        log.warning("%s does not name its classes; they are taken to be those of the class list, in its order", name)
        return
    if sorted(labels) == sorted(classes):
        raise StageError(f"{name} has the classes of the class list in another order: {', '.join(labels)}")
    number, (label, own) = next(pair for pair in enumerate(zip(labels, classes, strict=True)) if len(set(pair[1])) > 1)
    text = f"{name} calls class {number} {label!r}, the class list {own!r}"
    if not config.base.epochs:
        raise StageError(
            f"{text}; with base.epochs = 0 both must be the same, for an output means the class of its place"
        )
    log.warning("%s; base.new_head = true gives it a new classifier", text)
