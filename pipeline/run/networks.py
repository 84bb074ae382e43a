"""Trained networks of a run: Charades-Base and the fusion models, each a folder with weights and a record.

The record, base.json or model.json, says what the network was made from and which weights it has. It is written last.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
from pipeline.box_settings import as_trained, named, num_boxes
from pipeline.config import (
    Config,
    Focus,
    Fusion,
    Options,
    Pixels,
    Saliency,
    clip_settings,
    key_settings,
    task_settings,
    without_later,
)
from pipeline.errors import StageError
from pipeline.run.folder import RunFolder, check_classes, files_sha256
from pipeline.run.outcome import Outcome
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


class Variant(NamedTuple):
    """One kind of fusion model."""

    fusion: Fusion = "late"  # "late" adds the logits of Base and of a second network; "concat" joins volumes along time
    boxes: Focus = "entropy"  # where the second volume is cut, or "repeat" for V_in again
    pixels: Pixels = "source"  # the second volume is cut from the "source", or enlarged from the "input" ("upscaled")

    def named(self, saliency: Saliency) -> str:
        """Return the experiment's name, with which folders and results begin: "late-entropy-source"."""
        boxes = named(self.boxes, saliency)
        return f"{self.fusion}-{boxes}" if self.boxes == "repeat" else f"{self.fusion}-{boxes}-{self.pixels}"


@dataclass(frozen=True)
class TrainedModel:
    """A trained fusion model, as its model.json describes it."""

    folder: Path
    name: str  # of the experiment
    variant: Variant
    seed: int
    weights: str  # identity of its state dict
    base: str  # identity of the Base that it started from
    fuse: str  # what late fusion adds up, "logits" or "scores"
    saliency_from: str  # the network whose gradient gave the training boxes: "base", or the "current" one
    boxes: dict  # what the training boxes were made from, see `Stores.boxes_settings`; {} for V_in again
    pool_boxes: str = "max"  # how late fusion pools the logits of several boxes

    @property
    def num_boxes(self) -> int:
        """How many boxes a training clip had."""
        return self.boxes.get("num_boxes", 1)

    def boxes_name(self, saliency: Saliency) -> str:
        """Return what its training boxes are called; see `box_settings.named`."""
        return named(self.variant.boxes, as_trained(saliency, self.boxes))

    def check_count(self, saliency: Saliency) -> None:
        """Raise StageError where its temporal concatenation was trained with another number of boxes."""
        count = num_boxes(saliency)
        if self.variant.fusion == "concat" and self.variant.boxes != "repeat" and count != self.num_boxes:
            asked = f"saliency.box_rule {saliency.box_rule} gives {count}"
            raise StageError(f"{self.name}: its concatenation joins {self.num_boxes} boxes a clip, and {asked}")

    def num_frames(self, clip_frames: int) -> int:
        """Return how many frames its network sees at once."""
        return fused_frames(clip_frames, self.variant.fusion, self.num_boxes)


def read_model(folder: Path) -> TrainedModel:
    """Read a trained fusion model's record; see `read_trained`."""
    facts = read_trained(folder / "model.json")
    variant = Variant(facts["fusion"], facts["boxes_train"], facts["pixels"])
    values = {name: facts[name] for name in ("name", "seed", "weights", "base")}
    fuse, saliency_from = facts["recipe"]["fuse"], facts.get("looker", "base")
    boxes, pool = facts.get("boxes", {}), facts["recipe"].get("pool_boxes", "max")
    return TrainedModel(
        folder, variant=variant, **values, fuse=fuse, saliency_from=saliency_from, boxes=boxes, pool_boxes=pool
    )


def fused_frames(clip_frames: int, fusion: Fusion, boxes: int) -> int:
    """Return how many frames the network of a fusion sees at once, of clips with so many boxes each."""
    return clip_frames * (1 + boxes) if fusion == "concat" else clip_frames


def build_fusion(base: BaseWeights, config: Config, variant: Variant, current: bool = False) -> nn.Module:
    """Build the network that a fusion trains, with Base's weights; its clips are longer with concatenation.

    Args:
        current: its own saliency is wanted as well, of clips that are not concatenated.
    Raises:
        StageError: the network takes T_in frames alone, and `fusion.concat_positions` does not help it.
    """
    boxes = 1 if variant.boxes == "repeat" else num_boxes(config.saliency)
    network, longer = build_base(base), fused_frames(config.clips.num_frames, variant.fusion, boxes)
    if variant.fusion == "late" or getattr(network, "num_frames", 0) in (0, longer):
        return network
    if config.fusion.concat_positions != "interpolate":
        raise StageError(
            f"{base.network} takes {network.num_frames} frames alone, and temporal concatenation gives it {longer}: "
            "take late fusion (--fusion late), or --set fusion.concat_positions=interpolate for its position embeddings"
        )
    if current:
        raise StageError(
            f"{base.network} takes one number of frames, {longer} where it is trained and {config.clips.num_frames} "
            "for its saliency: take the saliency of Base, or late fusion"
        )
    interpolate_positions(network, longer)
    return network


def model_facts(run: RunFolder, config: Config, base: BaseWeights, variant: Variant) -> dict:
    """Return what every fusion model is made from, stored or on the fly: plain JSON, the source of its key."""
    late, several = variant.fusion == "late", variant.boxes != "repeat" and num_boxes(config.saliency) > 1
    unused = [*(["concat_positions"] if late else []), *([] if late and several else ["pool_boxes"])]
    return {
        "name": variant.named(config.saliency),
        "fusion": variant.fusion,
        "boxes_train": variant.boxes,
        "pixels": "input" if variant.boxes == "repeat" else variant.pixels,
        "base": base.sha256,
        **own_network(config),
        **without_later({"compile": config.base.compile}),
        "recipe": key_settings(config.fusion, *unused),
        **task_settings(config),
        "seed": config.seed,
        "labels_sha256": run.labels_sha256,
        "plan": {part.name: part.rows_sha256 for part in run.parts_of("train")},
    }


def model_folder(run: RunFolder, facts: dict) -> Path:
    """Return the folder where a fusion model with these facts belongs."""
    return run.path / "models" / f"{facts['name']}-{fingerprint(facts)}"


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


def write_model(folder: Path, network: nn.Module, facts: dict, num_videos: int, config: Config) -> Outcome:
    """Commit a trained fusion model; see `write_network`."""
    weights = write_network(folder / "model.json", network, facts | {"num_videos": num_videos}, config)
    return Outcome(folder, f"{facts['recipe']['epochs']} epochs on {num_videos} videos; weights {weights[:12]}")
