"""Trained fusion models of a run: what each is made from, which becomes its key, and how it is built and kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from cache.fingerprint import fingerprint
from models.clip_length import interpolate_positions
from pipeline.box_settings import as_trained, named, num_boxes
from pipeline.config import Config, Focus, Fusion, Pixels, Saliency
from pipeline.config_keys import key_settings, task_settings, without_later
from pipeline.errors import StageError
from pipeline.run.folder import RunFolder
from pipeline.run.networks import BaseWeights, build_base, own_network, read_trained, write_network
from pipeline.run.outcome import Outcome


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


def write_model(folder: Path, network: nn.Module, facts: dict, num_videos: int, config: Config) -> Outcome:
    """Commit a trained fusion model; see `write_network`."""
    weights = write_network(folder / "model.json", network, facts | {"num_videos": num_videos}, config)
    return Outcome(folder, f"{facts['recipe']['epochs']} epochs on {num_videos} videos; weights {weights[:12]}")
