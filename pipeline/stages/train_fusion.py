"""Stage 3: a network that looks twice, trained from the caches alone. No video is opened, Base's branch never runs."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from models.compiled import compile_network
from pipeline.config import Config, Focus, Fusion, Pixels
from pipeline.run import fusion_models
from pipeline.run.folder import holds_run
from pipeline.run.fusion_models import Variant, build_fusion, model_folder, write_model
from pipeline.run.outcome import Outcome
from pipeline.run.stores import Stores, open_run
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.fusion_step import FusionBatch, fusion_loss
from pipeline.training.loader import TrainingData
from pipeline.training.loop import fit, restore_metrics
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import join_world


@holds_run
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
        fusion, focus, pixels: what is trained, see `Variant`. With "late", the branch that sees the focused volume, to
            whose logits Base's stored ones are added.
        caches: another run folder, or a mirror of one, whose plan, labels, Base and caches are read.
    Raises:
        StageError: a stage before this one has not finished, or the network cannot take twice as many frames.
    """
    device, variant = pick_device(config.device), Variant(fusion, focus, pixels)
    with join_world(device):
        stores = open_run(run_dir, config, caches)
        facts = model_facts(stores, variant)
        folder = model_folder(stores.run, facts)
        if (folder / "model.json").exists():
            restore_metrics(folder)
            return Outcome(folder, "already trained")
        torch.manual_seed(config.seed)
        network = build_fusion(stores.base_weights, config, variant).to(device)
        compile_network(network, config.base.compile)
        volumes = CachedVolumes(stores, "train", variant)
        places = list(volumes.places().values())

        def load(epoch: int, numbers: list[int]) -> FusionBatch:
            rows = (places[number] for number in numbers)
            return volumes.load([of_video[epoch % len(of_video)] for of_video in rows])  # epoch e, augmentation e mod S

        def loss(network: nn.Module, batch: FusionBatch) -> Tensor:
            return fusion_loss(network, batch, fusion, config.fusion, config.data.task)

        data = TrainingData(load, len(places), loss, f"train-fusion {facts['name']}")
        fit(network, data, config.fusion, folder, config.seed)
        return write_model(folder, network, facts, len(places), config)


def model_facts(stores: Stores, variant: Variant) -> dict:
    """Return everything a fusion model is made from: plain JSON, the source of its key."""
    part = stores.run.parts[0]  # settings are the same in every part
    repeat = variant.boxes == "repeat"
    made_from = {} if repeat else {"crops": stores.crops_settings(part, variant.boxes, variant.pixels)}
    if repeat or variant.fusion == "concat":
        made_from["context"] = stores.context_settings(part)
    facts = fusion_models.model_facts(stores.run, stores.config, stores.base_weights, variant) | {
        "made_from": made_from
    }
    if missing := {one for part in stores.run.parts_of("train") for one in stores.left_out(part, variant)}:
        facts["left_out"] = sorted(missing)  # with these videos again it is another model
    facts["boxes"] = {} if repeat else stores.boxes_settings(part, variant.boxes)
    return json.loads(json.dumps(facts))
