"""A trained fusion model as a folder: what it was made from is its name and key; weights come before the record."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from cache.fingerprint import fingerprint
from pipeline.base import BaseWeights
from pipeline.distributed import Team
from pipeline.policies import Focus, Fusion, Pixels
from pipeline.trained import read_trained, write_trained
from pipeline.workspace import Outcome, Workspace


def common_facts(workspace: Workspace, base: BaseWeights, fusion: Fusion, focus: Focus, pixels: Pixels) -> dict:
    """What every fusion model is made from, wherever its pixels come from."""
    recipe = asdict(workspace.config.fusion)
    for name in ("activation_checkpointing", "checkpoint_minutes", "loader_workers"):  # these change no number
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


def write_model(folder: Path, network: nn.Module, facts: dict, num_videos: int, team: Team) -> Outcome:
    """Commit weights.pt, then model.json, by the process that leads; all processes of the team make this call."""
    if team.leads:
        state = {name: value.cpu() for name, value in network.state_dict().items()}
        write_trained(folder / "model.json", state, facts | {"num_videos": num_videos})
    team.wait()
    weights = read_trained(folder / "model.json")["weights"]
    return Outcome(folder, f"{facts['recipe']['epochs']} epochs on {num_videos} videos; weights {weights[:12]}")
