"""Stage 3 on the fly, as the paper did it: decode, find the box, cut and train in one step; no cache is read.

The functions that search and cut are those of stages 1 and 2, so that with Base's saliency, a plan of as many
augmentations as epochs and a lossless codec, both ways train on the same bytes.
"""

import json
from pathlib import Path

import torch

from models.compiled import compile_network
from pipeline.box_settings import rule_settings
from pipeline.config import OBJECTIVES, Config, Focus, Fusion, Pixels, SaliencyFrom
from pipeline.config_keys import clip_settings, key_settings
from pipeline.errors import StageError
from pipeline.run import fusion_models
from pipeline.run.folder import RunFolder, holds_run, open_folder, own_boxes_sha256
from pipeline.run.fusion_models import Variant, build_fusion, model_folder, write_model
from pipeline.run.networks import BaseWeights, load_base
from pipeline.run.outcome import Outcome
from pipeline.training.loader import TrainingData
from pipeline.training.loop import fit, restore_metrics
from pipeline.training.online_clips import OnlineClips
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import join_world


@holds_run
def run(
    config: Config,
    run_dir: Path,
    fusion: Fusion = "late",
    focus: Focus = "entropy",
    pixels: Pixels = "source",
    saliency_from: SaliencyFrom = "base",
) -> Outcome:
    """Train one fusion model from Base's weights with nothing stored; see `train_fusion.run` for what it learns.

    Epoch e draws augmentation e of every video, as a plan with that many would. Reads the plan (which videos), the
    labels, Base's weights and the videos. Writes models/<name>-online-<saliency_from>-<key>/.

    Args:
        saliency_from: whose gradient says where to cut: Base's, or that of the network as it is in this step, on V_in
            and in eval mode. The logits that late fusion adds are Base's in both cases.
    Raises:
        StageError: Base is not trained, there is no training video, or `focus` needs no network that could be current.
        VideoError: a video cannot be decoded any more, or is not the one that was prepared.
    """
    if focus == "looker":
        raise StageError("boxes looker are of a head that learnt stored maps: train from the caches, without --online")
    if saliency_from == "current" and focus not in OBJECTIVES:
        raise StageError(f"boxes {focus} look at no network, so they cannot be those of the current one")
    device, variant = pick_device(config.device), Variant(fusion, focus, pixels)
    with join_world(device):
        run = open_folder(run_dir, config)
        base = load_base(run, config)
        facts = model_facts(run, config, base, variant, saliency_from)
        folder = model_folder(run, facts)
        if (folder / "model.json").exists():
            restore_metrics(folder)
            return Outcome(folder, "already trained")
        torch.manual_seed(config.seed)
        network = build_fusion(base, config, variant, saliency_from == "current").to(device)
        compile_network(network, config.base.compile)
        clips = OnlineClips(run, config, base, variant, saliency_from, device)
        data = TrainingData(clips.load, len(clips.videos), clips.loss, f"train-fusion {facts['name']}")
        fit(network, data, config.fusion, folder, config.seed)
        return write_model(folder, network, facts, len(clips.videos), config)


def model_facts(
    run: RunFolder, config: Config, base: BaseWeights, variant: Variant, saliency_from: SaliencyFrom
) -> dict:
    """Return everything an online model is made from: plain JSON, the source of its key."""
    facts = fusion_models.model_facts(run, config, base, variant)
    facts["name"] += f"-online-{saliency_from}"
    facts |= {
        "looker": saliency_from,
        "saliency": key_settings(config.saliency, "own_boxes"),
        "clips": clip_settings(config),
    }
    repeat = variant.boxes == "repeat"
    facts["boxes"] = {} if repeat else {"policy": variant.boxes, **rule_settings(config.saliency, variant.boxes)}
    if variant.boxes == "own":
        facts["boxes"]["own_boxes"] = own_boxes_sha256(config.saliency.own_boxes)
    return json.loads(json.dumps(facts))
