"""A trained fusion model as a folder: what it was made from is its name and key; weights come before the record."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from cache.fingerprint import fingerprint
from models.checkpoint import state_hash
from pipeline.base import BaseWeights
from pipeline.config import NO_NUMBERS, Config
from pipeline.distributed import Team
from pipeline.policies import Focus, Fusion, Pixels
from pipeline.provenance import write_provenance
from pipeline.trained import read_trained, write_trained
from pipeline.workspace import Outcome, Workspace


def common_facts(workspace: Workspace, base: BaseWeights, fusion: Fusion, focus: Focus, pixels: Pixels) -> dict:
    """What every fusion model is made from, wherever its pixels come from."""
    recipe = asdict(workspace.config.fusion)
    for name in NO_NUMBERS:
        del recipe[name]
    return {
        "name": f"{fusion}-{focus}" if focus == "repeat" else f"{fusion}-{focus}-{pixels}",
        "fusion": fusion,
        "boxes_train": focus,
        "pixels": "input" if focus == "repeat" else pixels,
        "base": base.sha256,
        "recipe": recipe,
        "seed": workspace.config.seed,
        "labels_sha256": workspace.labels_sha256,
        "plan": {one.name: one.rows_sha256 for one in workspace.parts_of("train")},
    }


def model_folder(workspace: Workspace, facts: dict) -> Path:
    """Where a fusion model with these facts belongs."""
    return workspace.path / "models" / f"{facts['name']}-{fingerprint(facts)}"


def write_model(folder: Path, network: nn.Module, facts: dict, num_videos: int, team: Team, config: Config) -> Outcome:
    """Commit weights.pt, its provenance, then model.json, by the process that leads; all of the team make this call."""
    if team.leads:
        device = next(network.parameters()).device
        state = {name: value.cpu() for name, value in network.state_dict().items()}
        write_provenance(folder, config, state_hash(state), device, team.size)
        write_trained(folder / "model.json", state, facts | {"num_videos": num_videos})
    team.wait()
    weights = read_trained(folder / "model.json")["weights"]
    return Outcome(folder, f"{facts['recipe']['epochs']} epochs on {num_videos} videos; weights {weights[:12]}")
