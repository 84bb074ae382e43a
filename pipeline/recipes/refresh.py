"""Stage 3 with caches that follow the network: every N epochs maps, boxes and crops are made anew with its weights.

Generation g serves the epochs from g N on. Generation 0 is the run's own cache, made with Base. A generation is
complete before training goes on, and the one before it is deleted once a checkpoint that used the new one is committed:
beside the run's own, the disk never holds more than two. Whatever is interrupted, the same command goes on.
"""

import csv
import io
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
from pipeline.stages import crops, saliency
from pipeline.stages.train_fusion import model_facts as cached_facts
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

    The network that looks is the trainable branch (late) or the network itself (concat) on V_in, in eval mode, as it
    was at the start of the generation's first epoch. Base's logits of late fusion stay Base's. Reads what
    `train_fusion` reads, and the videos. Writes models/<name>-refresh<N>-<key>/ with generations.csv, and at the end
    generation-eval/, the caches of the evaluation clips with the last weights.

    Raises:
        StageError: a stage before this one has not finished, `focus` looks at no network, or several processes train.
    """
    if focus not in OBJECTIVES:
        raise StageError(f"boxes {focus} look at no network, so there is nothing to refresh")
    if not alone():
        raise StageError("--refresh-every trains in one process; start it without torchrun")
    workspace, device = Workspace(run_dir, config), pick_device(config)
    base = load_base(workspace)
    facts = model_facts(workspace, base, fusion, focus, pixels, every)
    folder = model_folder(workspace, facts)
    if not (folder / "model.json").exists():
        network, count = _train(workspace, base, fusion, focus, pixels, every, folder, device)
        write_model(folder, network, facts, count, own_team(), config)
    skipped = evaluation_boxes(workspace, folder)
    generations.drop_before(folder, config.fusion.epochs)
    count = -(-config.fusion.epochs // every)
    return Outcome(folder, f"{config.fusion.epochs} epochs, {count} generations of boxes", skipped)


def model_facts(
    workspace: Workspace, base: BaseWeights, fusion: Fusion, focus: Focus, pixels: Pixels, every: int
) -> dict:
    """Everything a refreshed model is made from: plain JSON, the source of its key."""
    facts = cached_facts(workspace, base, fusion, focus, pixels)
    return facts | {"name": f"{facts['name']}-refresh{every}", "looker": "current", "refresh_every": every}


def evaluation_boxes(workspace: Workspace, folder: Path) -> int:
    """Look at the evaluation clips with the weights of a trained model whose training boxes came from its own past.

    Returns:
        videos left out.
    """
    if not workspace.parts_of("test"):
        return 0
    facts = read_trained(folder / "model.json")
    there = generations.evaluation_of(workspace, folder, facts["boxes_train"])
    network = build_base(workspace, load_base(workspace))
    load_trained(network, folder, facts["weights"])
    generations.start(workspace, there, "test", set(), network.state_dict())
    return _fill(there, facts["boxes_train"], facts["pixels"])


def evaluation_if_current(workspace: Workspace, folder: Path) -> int:
    """`evaluation_boxes` of a model that learned from the current network's boxes; nothing for one that did not."""
    current = read_trained(folder / "model.json").get("looker") == "current"
    return evaluation_boxes(workspace, folder) if current else 0


def _fill(generation: Workspace, policy: Policy, pixels: Pixels) -> int:
    """Stages 1 and 2 of a generation; videos left out. Boxes that know the labels are marked by who evaluates them."""
    saliency.run(generation.config, generation.path, use_labels=policy == "cross_entropy")
    return crops.run(generation.config, generation.path, (policy,), pixels, context=False).num_skipped


def _train(workspace, base, fusion, focus, pixels, every, folder, device) -> tuple[nn.Module, int]:
    """Train generation by generation; the network and the number of its training videos."""
    config = workspace.config
    volumes = Volumes(workspace, base, "train", fusion, focus, pixels)
    places = volumes.places()
    if not places:
        raise StageError("the plan has no training video; check the split in the annotations")
    stored = max(len(rows) for rows in places.values())
    label, network = f"train-fusion {fusion}-{focus}-{pixels}-refresh{every}", None

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return fusion_loss(network, batch, fusion, config)

    for number, first in enumerate(range(0, config.fusion.epochs, every)):
        last = min(first + every, config.fusion.epochs)
        content = newest_checkpoint(folder) or {"epoch": 0, "step": 0}
        if content["epoch"] >= last < config.fusion.epochs:
            continue
        generations.drop_before(folder, number - 1)
        new, wanted = None, sorted({epoch % stored for epoch in range(first, last)})
        if number and content["epoch"] < last:
            there = generations.opened(workspace, generations.numbered(folder, number), focus)
            if not generations.started(there) and (content["epoch"], content["step"]) != (first, 0):
                raise StageError(f"{there.path} is gone, and with it the boxes of epoch {first}; train anew")
            generations.start(workspace, there, "train", set(wanted), content["network"])
            _fill(there, focus, pixels)
            looker = load_base(there)
            _record(folder, number, first, looker.sha256)
            new = Volumes(there, looker, "train", "late", focus, pixels)
        load = _loader(volumes, new, wanted, stored)
        torch.manual_seed(config.seed)
        network = build_base(workspace, base).to(device)  # fit goes on from the newest checkpoint
        fit(network, load, len(places), loss, config.fusion, folder, config.seed, device, label, last)
        generations.drop_before(folder, number)
    return network, len(places)


def _loader(volumes: Volumes, new: Volumes | None, wanted: list[int], stored: int):
    """`load` of `fit`: focused volumes of the generation, which has the wanted augmentations of the `stored` ones, all
    else from the run's own caches.

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


def _record(folder: Path, number: int, epoch: int, looker: str) -> None:
    """Add a generation to generations.csv: its number, the epoch it serves first, the weights that looked."""
    path, rows = folder / "generations.csv", []
    if path.exists():
        rows = [row for row in csv.DictReader(io.StringIO(path.read_text())) if int(row["generation"]) < number]
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ("generation", "epoch", "weights"), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, {"generation": number, "epoch": epoch, "weights": looker}])
    write_file(path, buffer.getvalue().encode())
