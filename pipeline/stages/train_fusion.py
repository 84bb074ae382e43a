"""Stage 3: a network that looks twice, trained from the caches alone. No video is opened, Base's branch never runs."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.config import Config, Focus, Fusion, Pixels
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights, build_base, common_facts, load_base, model_folder, write_model
from pipeline.run.outcome import Outcome
from pipeline.run.stores import boxes_settings, context_settings, crops_settings
from pipeline.training.cached_volumes import Place, Volumes
from pipeline.training.fusion_step import fusion_loss
from pipeline.training.loader import Batch
from pipeline.training.loop import fit
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import Team, joined


def run(
    config: Config,
    run_dir: Path,
    fusion: Fusion = "late",
    focus: Focus = "entropy",
    pixels: Pixels = "source",
    caches: Path | None = None,
) -> Outcome:
    """Train one fusion model from Base's weights (paper 4.3, 5.3).

    Reads base/ (late) or context/ (concat), and crops/; nothing else. Writes models/<name>-<key>/: weights.pt,
    model.json (what it was made from), metrics.csv, checkpoints.

    Args:
        fusion: "late" trains the branch that sees the focused volume and adds Base's stored logits; "concat" trains
            one network on context and focused volume, joined along time.
        focus: boxes of the focused volume, or "repeat" for V_in again.
        pixels: "source", or "input" for the paper's "upscaled".
        caches: another run folder, or a mirror of one, whose plan, labels, Base and caches are read.
    Raises:
        StageError: a stage before this one has not finished.
    """
    device = pick_device(config)
    with joined(device) as team:
        return _run(Workspace(run_dir, config, caches), fusion, focus, pixels, device, team)


def _run(
    workspace: Workspace, fusion: Fusion, focus: Focus, pixels: Pixels, device: torch.device, team: Team
) -> Outcome:
    config = workspace.config
    base = load_base(workspace)
    facts = model_facts(workspace, base, fusion, focus, pixels)
    folder = model_folder(workspace, facts)
    if (folder / "model.json").exists():
        return Outcome(folder, "already trained")
    volumes = Volumes(workspace, base, "train", fusion, focus, pixels)
    places = list(volumes.places().values())
    if not places:
        raise StageError("the plan has no training video; check the split in the annotations")

    def load(epoch: int, numbers: list[int]) -> Batch:
        return volumes.load([_augmentation(places[number], epoch) for number in numbers])

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return fusion_loss(network, batch, fusion, config)

    torch.manual_seed(config.seed)
    network = build_base(workspace, base).to(device)
    fit(network, load, len(places), loss, config.fusion, folder, config.seed, device, f"train-fusion {facts['name']}")
    return write_model(folder, network, facts, len(places), team, config)


def model_facts(workspace: Workspace, base: BaseWeights, fusion: Fusion, focus: Focus, pixels: Pixels) -> dict:
    """Everything a fusion model is made from: plain JSON, the source of its key."""
    part = workspace.parts[0]  # settings are the same in every part
    repeat = focus == "repeat"
    if repeat:
        made_from = {"context": context_settings(workspace, part)}
    else:
        made_from = {"crops": crops_settings(workspace, part, base.sha256, focus, pixels)}
    if fusion == "concat":
        made_from["context"] = context_settings(workspace, part)
    facts = common_facts(workspace, base, fusion, focus, pixels) | {"made_from": made_from}
    facts["boxes"] = {} if repeat else boxes_settings(workspace, part, base.sha256, focus)
    return json.loads(json.dumps(facts))


def _augmentation(rows: list[Place], epoch: int) -> Place:
    """Epoch e sees augmentation e mod S."""
    return rows[epoch % len(rows)]
