"""Train a fusion model on caches that follow it: every N epochs maps, boxes and crops are made anew with its weights.

Generation g is the caches for the epochs from g N on; generation 0 is the run's own caches, made with Base. A
generation is complete before training goes on, and it is deleted once a checkpoint that used the next one is committed:
beside the run's own caches, the disk never holds more than two. After any interruption the same command goes on.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cache.commit import write_file
from pipeline.config import OBJECTIVES, Config, Focus, Fusion, Pixels, Policy
from pipeline.errors import StageError
from pipeline.run import generations
from pipeline.run.folder import Workspace
from pipeline.run.networks import (
    BaseWeights,
    build_base,
    load_base,
    load_trained,
    model_folder,
    read_trained,
    write_model,
)
from pipeline.run.outcome import Outcome
from pipeline.stages import crops, saliency, train_fusion
from pipeline.training.cached_volumes import Volumes
from pipeline.training.checkpoints import newest_checkpoint
from pipeline.training.fusion_step import fusion_loss
from pipeline.training.loader import Batch
from pipeline.training.loop import fit
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import alone, own_team


def run(
    config: Config,
    run_dir: Path,
    fusion: Fusion = "late",
    focus: Focus = "entropy",
    pixels: Pixels = "source",
    every: int = 1,
) -> Outcome:
    """Train one fusion model as `train_fusion.run` does, with boxes from the current network every `every` epochs.

    Saliency is that of the trainable branch (late) or of the network itself (concat) on V_in, in eval mode, with the
    weights at the start of the generation's first epoch. The other logits of late fusion stay Base's. Reads what
    `train_fusion` reads, and the videos. Writes models/<name>-refresh<N>-<key>/ with generations.csv, and at the end
    generation-eval/, the caches of the evaluation clips with the last weights.

    Raises:
        StageError: a stage before this one has not finished, the boxes `focus` need no network, or several processes
            train.
    """
    if focus not in OBJECTIVES:
        raise StageError(f"boxes {focus} do not depend on a network, so there is nothing to refresh")
    if not alone():
        raise StageError("--refresh-every trains in one process; start it without torchrun")
    workspace = Workspace(run_dir, config)
    base = load_base(workspace)
    facts = train_fusion.model_facts(workspace, base, fusion, focus, pixels)
    facts |= {"name": f"{facts['name']}-refresh{every}", "looker": "current", "refresh_every": every}
    folder = model_folder(workspace, facts)
    if not (folder / "model.json").exists():
        network, count = _train(workspace, base, facts, folder)
        write_model(folder, network, facts, count, own_team(), config)
    skipped = evaluation_boxes(workspace, folder)
    generations.drop_before(folder, config.fusion.epochs)
    count = -(-config.fusion.epochs // every)
    return Outcome(folder, f"{config.fusion.epochs} epochs, {count} generations of boxes", skipped)


def evaluation_boxes(workspace: Workspace, folder: Path) -> int:
    """Make maps, boxes and crops of the evaluation clips with the weights of a trained model.

    Needed where the training boxes came from the network that was trained, not from Base.

    Returns:
        number of videos left out.
    """
    if not workspace.parts_of("test"):
        return 0
    facts = read_trained(folder / "model.json")
    generation = generations.evaluation_of(workspace, folder, facts["boxes_train"])
    network = build_base(workspace, load_base(workspace))
    load_trained(network, folder, facts["weights"])
    generations.start(workspace, generation, "test", set(), network.state_dict())
    return _fill(generation, facts["boxes_train"], facts["pixels"])


def _fill(generation: Workspace, policy: Policy, pixels: Pixels) -> int:
    """Run stages 1 and 2 of a generation; return how many videos they left out.

    Boxes from labels need no option here: `evaluate` marks the results that use them.
    """
    saliency.run(generation.config, generation.path, use_labels=policy == "cross_entropy")
    return crops.run(generation.config, generation.path, (policy,), pixels, context=False).num_skipped


def _train(workspace: Workspace, base: BaseWeights, facts: dict, folder: Path) -> tuple[nn.Module, int]:
    """Train generation by generation.

    Returns:
        the network, and the number of its training videos.
    """
    config, every = workspace.config, facts["refresh_every"]
    fusion, focus, pixels = facts["fusion"], facts["boxes_train"], facts["pixels"]
    volumes = Volumes(workspace, base, "train", fusion, focus, pixels)
    places = volumes.places()
    if not places:
        raise StageError("the plan has no training video; check the split in the annotations")
    stored = max(len(rows) for rows in places.values())
    label, device, network = f"train-fusion {facts['name']}", pick_device(config), None

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return fusion_loss(network, batch, fusion, config)

    for number, first in enumerate(range(0, config.fusion.epochs, every)):
        last = min(first + every, config.fusion.epochs)
        checkpoint = newest_checkpoint(folder) or {"epoch": 0, "step": 0}
        if checkpoint["epoch"] >= last < config.fusion.epochs:
            continue
        generations.drop_before(folder, number - 1)
        new, wanted = None, sorted({epoch % stored for epoch in range(first, last)})
        if number and checkpoint["epoch"] < last:
            generation = generations.opened(workspace, generations.numbered(folder, number), focus)
            if not generations.started(generation) and (checkpoint["epoch"], checkpoint["step"]) != (first, 0):
                raise StageError(f"{generation.path} is gone, and with it the boxes of epoch {first}; train anew")
            generations.start(workspace, generation, "train", set(wanted), checkpoint["network"])
            _fill(generation, focus, pixels)
            weights = load_base(generation)
            _record(folder, number, first, weights.sha256)
            new = Volumes(generation, weights, "train", "late", focus, pixels)
        load = _loader(volumes, new, wanted, stored)
        torch.manual_seed(config.seed)
        network = build_base(workspace, base).to(device)  # fit goes on from the newest checkpoint
        fit(network, load, len(places), loss, config.fusion, folder, config.seed, device, label, last)
        generations.drop_before(folder, number)
    return network, len(places)


def _loader(volumes: Volumes, new: Volumes | None, wanted: list[int], stored: int) -> Callable[[int, list[int]], Batch]:
    """Return `load` of `fit`.

    Args:
        volumes: of the run's own caches, which have `stored` augmentations of each video.
        new: focused volumes of the generation, with the `wanted` augmentations; None for generation 0.
    Raises:
        StageError: a video could be read when the run's caches were made, and now cannot.
    """
    rows = list(volumes.places().items())
    fresh = new.places() if new else {}
    if new and (lost := [video_id for video_id, _ in rows if video_id not in fresh]):
        raise StageError(f"{', '.join(lost)}: in the run's caches, but saliency or crops cannot read them any more")

    def load(epoch: int, numbers: list[int]) -> Batch:
        places = [rows[number][1][epoch % stored] for number in numbers]
        if new is None:
            return volumes.load(places)
        column = wanted.index(epoch % stored)
        return new.focus([fresh[rows[number][0]][column] for number in numbers]), *volumes.rest(places)

    return load


def _record(folder: Path, number: int, epoch: int, weights: str) -> None:
    """Add a generation to generations.csv: its number, the first epoch that uses it, SHA-256 of its weights."""
    path, lines = folder / "generations.csv", ["generation,epoch,weights"]
    if path.exists():
        lines += [line for line in path.read_text().splitlines()[1:] if int(line.split(",")[0]) < number]
    write_file(path, "\n".join([*lines, f"{number},{epoch},{weights}", ""]).encode())
