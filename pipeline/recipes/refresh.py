"""Train a fusion model on caches that follow it: every N epochs maps, boxes and crops are made anew with its weights.

Generation g is the caches for epochs g N to (g + 1) N - 1; generation 0 is the run's own caches, made with Base. A
generation is deleted once a checkpoint that used the next one is committed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from cache.commit import write_file
from models.compiled import compile_network
from pipeline.config import OBJECTIVES, Config, Focus, Fusion, Pixels
from pipeline.errors import StageError
from pipeline.run import generations
from pipeline.run.folder import holds_run
from pipeline.run.fusion_models import Variant, build_fusion, model_folder, read_model, write_model
from pipeline.run.generations import Generation
from pipeline.run.networks import build_trained
from pipeline.run.outcome import Outcome
from pipeline.run.stores import Stores, open_run
from pipeline.stages import crops, saliency, train_fusion
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.checkpoints import newest_checkpoint
from pipeline.training.fusion_step import FusionBatch, fusion_loss
from pipeline.training.loader import TrainingData
from pipeline.training.loop import fit
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import is_single_process


@holds_run
def run(
    config: Config,
    run_dir: Path,
    fusion: Fusion = "late",
    focus: Focus = "entropy",
    pixels: Pixels = "source",
    every: int = 1,
) -> Outcome:
    """Train one fusion model as `train_fusion.run` does, with new boxes from the network every `every` epochs.

    Saliency is that of the trainable branch (late) or of the network itself (concat) on V_in, in eval mode, with the
    weights at the start of the generation's first epoch. The other logits of late fusion stay Base's. Reads what
    `train_fusion` reads, and the videos. Writes models/<name>-refresh<N>-<key>/ with generations.csv, and at the end
    generation-eval/, the caches of the evaluation clips with the last weights. An interrupted training goes on.

    Raises:
        StageError: a stage before this one has not finished, `focus` needs no network, or several processes train.
    """
    if focus not in OBJECTIVES:
        raise StageError(f"boxes {focus} do not depend on a network, so there is nothing to refresh")
    if not is_single_process():
        raise StageError("--refresh-every trains in one process; start it without torchrun")
    stores, variant = open_run(run_dir, config), Variant(fusion, focus, pixels)
    facts = train_fusion.model_facts(stores, variant)
    facts |= {"name": f"{facts['name']}-refresh{every}", "looker": "current", "refresh_every": every}
    folder = model_folder(stores.run, facts)
    if not (folder / "model.json").exists():
        network, count = _train(stores, variant, every, folder)
        write_model(folder, network, facts, count, config)
    skipped = evaluation_boxes(stores, folder)
    generations.drop_before(folder, config.fusion.epochs)
    count = -(-config.fusion.epochs // every)
    return Outcome(folder, f"{config.fusion.epochs} epochs, {count} generations of boxes", skipped)


def evaluation_boxes(stores: Stores, folder: Path) -> int:
    """Make maps, boxes and crops of the evaluation clips with the weights of a model that was trained on its own boxes.

    Returns:
        number of videos left out.
    """
    if not stores.run.parts_of("test"):
        return 0
    model = read_model(folder)
    generation = generations.evaluation_of(folder, stores.config, model.variant.boxes)
    network = build_trained(stores.base_weights, folder, model.weights)
    generations.start(stores.run, generation, "test", set(), network.state_dict())
    return _fill(generation, model.variant)


def _fill(generation: Generation, variant: Variant) -> int:
    """Run stages 1 and 2 of a generation; return how many videos they left out."""
    config, folder = generation.config, generation.run.path
    saliency.run(config, folder, use_labels=variant.boxes == "cross_entropy")  # `evaluate` marks such results
    return crops.run(config, folder, (variant.boxes,), variant.pixels, context=False).num_skipped


def _train(stores: Stores, variant: Variant, every: int, folder: Path) -> tuple[nn.Module, int]:
    """Train generation by generation; return the network and the number of its training videos."""
    config, volumes = stores.config, CachedVolumes(stores, "train", variant)
    places = volumes.places()
    if not places:
        raise StageError("the plan has no training video; check the split in the annotations")
    stored = max(len(rows) for rows in places.values())
    label, network = f"train-fusion {variant.named(config.saliency)}-refresh{every}", None
    loss = partial(fusion_loss, fusion=variant.fusion, recipe=config.fusion, task=config.data.task)
    for number, first in enumerate(range(0, config.fusion.epochs, every)):
        last = min(first + every, config.fusion.epochs)
        checkpoint = newest_checkpoint(folder) or {"epoch": 0, "step": 0}
        if checkpoint["epoch"] >= last < config.fusion.epochs:
            continue
        generations.drop_before(folder, number - 1)
        new, wanted = None, sorted({epoch % stored for epoch in range(first, last)})
        if number and checkpoint["epoch"] < last:
            generation = generations.generation_in(generations.numbered(folder, number), config, variant.boxes)
            if not generation.started and (checkpoint["epoch"], checkpoint["step"]) != (first, 0):
                raise StageError(f"{generation.run.path} is gone, and with it the boxes of epoch {first}; train anew")
            generations.start(stores.run, generation, "train", set(wanted), checkpoint["network"])
            _fill(generation, variant)
            fresh = generation.stores()
            _record(folder, number, first, fresh.base_weights.sha256)
            new = CachedVolumes(fresh, "train", variant._replace(fusion="late"))  # reads no context volumes
        data = TrainingData(_loader(volumes, new, wanted, stored), len(places), loss, label)
        torch.manual_seed(config.seed)
        # fit loads the newest checkpoint
        network = build_fusion(stores.base_weights, config, variant, True).to(pick_device(config.device))
        compile_network(network, config.base.compile)
        fit(network, data, config.fusion, folder, config.seed, last)
        generations.drop_before(folder, number)
    return network, len(places)


def _loader(
    volumes: CachedVolumes, new: CachedVolumes | None, wanted: list[int], stored: int
) -> Callable[[int, list[int]], FusionBatch]:
    """Return `load` of `TrainingData`.

    Args:
        volumes: of the run's own caches, which have `stored` augmentations of each video.
        new: focused volumes of the generation, with the `wanted` augmentations; None for generation 0.
    Raises:
        StageError: a video that the run's caches have is missing from the generation.
    """
    rows = list(volumes.places().items())
    fresh = new.places() if new else {}
    if new and (lost := [video_id for video_id, _ in rows if video_id not in fresh]):
        raise StageError(f"{', '.join(lost)}: in the run's caches, but saliency or crops cannot read them any more")

    def load(epoch: int, numbers: list[int]) -> FusionBatch:
        places = [rows[number][1][epoch % stored] for number in numbers]
        if new is None:
            return volumes.load(places)
        column = wanted.index(epoch % stored)
        focused = new.focused([fresh[rows[number][0]][column] for number in numbers])
        return FusionBatch(focused, *volumes.rest(places))

    return load


def _record(folder: Path, number: int, epoch: int, weights: str) -> None:
    """Add a generation to generations.csv: its number, from 1 on, its first epoch, and SHA-256 of its weights."""
    path, lines = folder / "generations.csv", ["generation,epoch,weights"]
    if path.exists():
        lines = path.read_text().splitlines()[:number]
    write_file(path, "\n".join([*lines, f"{number},{epoch},{weights}", ""]).encode())
