"""Charades-Base as the other stages use it: which weights, their identity, and the network built from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor, nn

from cache.errors import DamagedError
from cache.fingerprint import fingerprint
from cache.remote.fetch import fetch_recorded_files
from cache.sealed import read_record, write_record
from models.backbones import build
from models.checkpoint import load_weights, state_hash, to_bytes
from pipeline.config import NO_NUMBERS, Config, Focus, Fusion, Pixels
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.outcome import Outcome
from pipeline.run.provenance import write_provenance
from pipeline.workers.distributed import Team

WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class BaseWeights:
    """A trained Base: its folder, its identity (sha256 of the state dict), and the shape of its logits."""

    folder: Path
    sha256: str
    num_classes: int
    out_frames: int


def load_base(workspace: Workspace) -> BaseWeights:
    """The Base of this config.

    Raises:
        StageError: it is not trained yet.
    """
    about = workspace.base_folder / "base.json"
    if not about.exists() and workspace.parts:  # reading the plan refuses a config with other clips, by name
        raise StageError(f"{workspace.base_folder}: no trained Base for this config; run train-base first")
    facts = read_trained(about)
    return BaseWeights(workspace.base_folder, facts["weights"], facts["num_classes"], facts["out_frames"])


def build_base(workspace: Workspace, base: BaseWeights) -> nn.Module:
    """Base's network with its weights, on the CPU.

    Raises:
        WeightsError: the file does not fit the network.
        DamagedError: it holds other weights than were committed.
    """
    fetch_recorded_files(base.folder / "base.json")
    network = build(workspace.config.base.network, base.num_classes)
    load_trained(network, base.folder, base.sha256)
    return network


def write_trained(record: Path, state: Mapping[str, Tensor], facts: dict) -> dict:
    """Commit weights.pt beside the record, then the record.

    Args:
        record: base.json or model.json in the network's folder.
        state: state dict on the CPU.
        facts: plain JSON, what the network was made from.
    Returns:
        the facts with `weights`, the identity of the state dict.
    """
    facts = facts | {"weights": state_hash(dict(state))}
    record.parent.mkdir(parents=True, exist_ok=True)
    write_record(record, facts, {WEIGHTS: to_bytes(dict(state))})
    return facts


def read_trained(record: Path) -> dict:
    """The facts of a trained network.

    Raises:
        DamagedError: the record is not what was written.
    """
    return read_record(record, "weights")


def load_trained(network: nn.Module, folder: Path, weights: str) -> None:
    """Load weights.pt of a folder into a network.

    Args:
        weights: their identity, as the record has it.
    Raises:
        DamagedError: they are others: a bit flipped on the disk, or a file that was replaced.
        WeightsError: the file cannot be read, or does not fit the network.
    """
    load_weights(network, folder / WEIGHTS)
    found = state_hash(network.state_dict())
    if found != weights:
        raise DamagedError(
            f"{folder / WEIGHTS} holds weights {found[:12]}, its record says {weights[:12]}; "
            "`verify --repair` moves it aside, then train again: it goes on from the last checkpoint"
        )


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
