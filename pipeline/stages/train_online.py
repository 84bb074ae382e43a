"""Stage 3 on the fly, as the paper did it: decode, look, cut from the source and train in one step; no cache is read.

One decode of a clip gives V_in and the focused volume; where Base looks, one forward pass gives its logits and its
saliency. What looks and what cuts are the functions of stages 1 and 2, so that with Base looking, a plan of as many
augmentations as epochs and a lossless codec, both ways train on the same bytes.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.config import OBJECTIVES, Config, Focus, Fusion, Pixels, clip_settings
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights, build_base, common_facts, load_base, model_folder, write_model
from pipeline.run.outcome import Outcome
from pipeline.training.loop import fit
from pipeline.training.online_clips import Looker, Online
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import joined


def run(
    config: Config,
    run_dir: Path,
    fusion: Fusion = "late",
    focus: Focus = "entropy",
    pixels: Pixels = "source",
    looker: Looker = "base",
) -> Outcome:
    """Train one fusion model from Base's weights with nothing stored; see `train_fusion.run` for what it learns.

    Epoch e draws augmentation e of every video, as a plan with that many would. Reads the plan (which videos), the
    labels, Base's weights and the videos. Writes models/<name>-online-<looker>-<key>/.

    Args:
        looker: whose gradient says where to look: Base's, or that of the network as it is in this step. That is the
            trainable branch on V_in (late), or the network on V_in alone (concat); in eval mode. Base's logits of
            late fusion are always Base's.
    Raises:
        StageError: Base is not trained, there is no training video, or `focus` looks at no network that could be
            current.
        VideoError: a video cannot be decoded any more.
    """
    if looker == "current" and focus not in OBJECTIVES:
        raise StageError(f"boxes {focus} look at no network, so they cannot be those of the current one")
    device = pick_device(config)
    with joined(device) as team:
        workspace = Workspace(run_dir, config)
        base = load_base(workspace)
        facts = model_facts(workspace, base, fusion, focus, pixels, looker)
        folder = model_folder(workspace, facts)
        if (folder / "model.json").exists():
            return Outcome(folder, "already trained")
        online = Online(workspace, base, fusion, focus, pixels, looker, device)
        if not online.videos:
            raise StageError("the plan has no training video; check the split in the annotations")
        torch.manual_seed(config.seed)
        network = build_base(workspace, base).to(device)
        label, count = f"train-fusion {facts['name']}", len(online.videos)
        fit(network, online.load, count, online.loss, config.fusion, folder, config.seed, device, label)
        return write_model(folder, network, facts, count, team, config)


def model_facts(
    workspace: Workspace, base: BaseWeights, fusion: Fusion, focus: Focus, pixels: Pixels, looker: Looker
) -> dict:
    """Everything an online model is made from: plain JSON, the source of its key."""
    facts = common_facts(workspace, base, fusion, focus, pixels)
    facts["name"] += f"-online-{looker}"
    facts |= {"looker": looker, "saliency": asdict(workspace.config.saliency), "clips": clip_settings(workspace.config)}
    facts["boxes"] = {} if focus == "repeat" else {"policy": focus, "size": [workspace.config.saliency.box_side] * 2}
    return json.loads(json.dumps(facts))
