"""Trained networks of a run, each a folder with weights and a record; of these Base, see also `fusion_models`.

The record, such as base.json, says what the network was made from and which weights it has. It is written last.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from cache.errors import DamagedError, relative_to
from cache.fingerprint import fingerprint
from cache.remote.fetch import fetch_recorded_files
from cache.sealed import read_record, write_record
from models.backbones import build
from models.checkpoint import load_weights, state_hash, to_bytes
from models.clip_length import interpolate_positions
from models.hf_network import architecture_files, is_folder, weights_files
from models.own_network import is_reference, source_file
from pipeline.config import Config, Options
from pipeline.config_keys import clip_settings, key_settings, task_settings
from pipeline.errors import StageError
from pipeline.run.folder import RunFolder, check_classes, files_sha256
from pipeline.run.provenance import write_provenance
from pipeline.workers.distributed import current_world

WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class BaseWeights:
    """A trained Base."""

    folder: Path
    network: str  # name of its architecture
    sha256: str  # identity of its state dict
    num_classes: int  # C of its logits, (T_out, C)
    out_frames: int  # T_out
    options: Options = ()  # of its builder


def base_folder(run: RunFolder, config: Config) -> Path:
    """Return the folder where this config's Base is trained.

    Its key holds the recipe, not the labels and videos: a corrected label or a new video must not make every stored map
    worthless. `base.json` records both, to tell what Base has seen, and the classes, which must not change: see
    `load_base` and `check_classes`.
    """
    recipe = key_settings(config.base, "in_memory")  # which changes no number
    if (init := config.base.init) and not Path(init).is_file():
        hint = "pipeline/data/README.md says where weights come from"
        raise StageError(f"base.init: {init}: no such file{relative_to(init)}; {hint}")
    recipe |= own_network(config)
    start = [Path(init)] if init else weights_files(config.base.network) if is_folder(config.base.network) else []
    recipe["init"] = files_sha256(*start) if start else ""
    settings = {"clips": clip_settings(config), "base": recipe, "seed": config.seed, **task_settings(config)}
    return run.source / "models" / f"base-{fingerprint(json.loads(json.dumps(settings)))}"


def own_network(config: Config) -> dict:
    """Return what identifies the code or config.json of a network of the user's, beside its weights; {} for ours."""
    files = network_files(config.base.network)
    return {"network_sha256": files_sha256(*files)} if files else {}


def network_files(name: str) -> list[Path]:
    """Return the files that a network of the user's is built from, weights apart; none for one of ours."""
    return architecture_files(name) if is_folder(name) else [source_file(name)] if is_reference(name) else []


def load_base(run: RunFolder, config: Config) -> BaseWeights:
    """Return the trained Base of this config; see also `RunFolder.parts`.

    Raises:
        StageError: there is none. StaleCacheError: it was trained on other classes than the run has now.
    """
    folder = base_folder(run, config)
    if not (folder / "base.json").exists() and run.parts:  # reading the plan refuses a config with other clips, by name
        hint = ""
        if files := network_files(config.base.network):
            hint = f" ({', '.join(map(str, files))} belongs to it, as it is now)"
        others = {path.parent.name: read_record(path)["network"] for path in folder.parent.glob("base-*/base.json")}
        found = ", ".join(f"{network} in {name}" for name, network in sorted(others.items()))
        found = f"; this run has Base of other settings: {found}; is a --set missing?" if found else ""
        raise StageError(f"{folder}: no trained Base for this config{hint}; run train-base first{found}")
    facts = read_trained(folder / "base.json")
    if "classes" in facts:  # not of networks that were trained before they were recorded
        check_classes(facts["classes"], run.classes, f"{folder} was trained on")
    shape = facts["num_classes"], facts["out_frames"]
    return BaseWeights(folder, config.base.network, facts["weights"], *shape, config.base.options)


def build_base(base: BaseWeights) -> nn.Module:
    """Build Base with its weights, on the CPU; see `load_trained`."""
    fetch_recorded_files(base.folder / "base.json")
    return build_trained(base, base.folder, base.sha256)


def build_trained(base: BaseWeights, folder: Path, weights: str, num_frames: int = 0) -> nn.Module:
    """Build a network of Base's architecture with the weights of a folder, on the CPU; see `load_trained`.

    With num_frames it is one that was trained on so many frames, see `build_fusion`.
    """
    network = build_for(base.network, base.num_classes, base.options, num_frames)
    load_trained(network, folder, weights)
    return network


def build_for(name: str, num_classes: int, options: Options, num_frames: int = 0) -> nn.Module:
    """Build a network for clips of num_frames, 0 for those of `build`, with its positions interpolated if need be."""
    network = build(name, num_classes, **dict(options))
    if num_frames and getattr(network, "num_frames", 0) not in (0, num_frames):
        interpolate_positions(network, num_frames)
    return network


def write_trained(record: Path, state: Mapping[str, Tensor], facts: dict) -> None:
    """Commit weights.pt, a state dict on the CPU, beside the record; then the record, base.json or model.json.

    `facts`, plain JSON, say what the network was made from; `weights`, the identity of the state dict, is added.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    write_record(record, facts | {"weights": state_hash(dict(state))}, {WEIGHTS: to_bytes(dict(state))})


def read_trained(record: Path) -> dict:
    """Read the record of a trained network; raise DamagedError where it is not what was written."""
    return read_record(record, "weights")


def load_trained(network: nn.Module, folder: Path, weights: str) -> None:
    """Load weights.pt of a folder, whose identity is `weights`, into a network.

    Raises:
        DamagedError: the file holds other weights: a bit flipped on the disk, or the file was replaced.
        WeightsError: the file cannot be read, or does not fit the network.
    """
    load_weights(network, folder / WEIGHTS, finite=False)  # a diverged training is what it is; `saliency` warns
    if (found := state_hash(network.state_dict())) != weights:
        raise DamagedError(
            f"{folder / WEIGHTS} holds weights {found[:12]}, its record says {weights[:12]}; "
            "`verify --repair` moves it aside, then train again: it goes on from the last checkpoint"
        )


def write_network(record: Path, network: nn.Module, facts: dict, config: Config) -> str:
    """Commit a network that is trained: its provenance, then as `write_trained`. Return the identity of its weights.

    All processes of torchrun make this call; the first one writes.
    """
    world = current_world()
    if world.is_main:
        device = next(network.parameters()).device
        state = {name: value.cpu() for name, value in network.state_dict().items()}
        write_provenance(record.parent, config, state_hash(state), device, world.size)
        write_trained(record, state, facts)
    world.barrier()
    return read_trained(record)["weights"]
