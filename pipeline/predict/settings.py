"""What a prediction needs to know beside the weights: read from a run, or from a folder that `export` made."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from cache.layout import RESULTS
from cache.sealed import read_record, read_sealed
from pipeline.box_settings import as_trained, named, num_boxes, num_segments
from pipeline.config import (
    OBJECTIVES,
    POLICIES,
    Clips,
    Config,
    Focus,
    Fusion,
    Objective,
    Options,
    Pixels,
    Saliency,
    SaliencyFrom,
    Task,
    pooling_of,
)
from pipeline.config_file import load
from pipeline.errors import StageError
from pipeline.run.folder import RunFolder, open_folder
from pipeline.run.fusion_models import TrainedModel, fused_frames, read_model
from pipeline.run.looker_weights import looker_sha256
from pipeline.run.networks import BaseWeights, load_base
from pipeline.run.results import main_metric, protocol
from pipeline.run.stores import Stores

EXPORTED = "config.json"  # in a folder that `export` made
THRESHOLDS = "thresholds.json"  # beside the weights
EVALUATED = "-eval-"  # in the name of an experiment: what follows are the boxes at evaluation


@dataclass(frozen=True)
class Settings:
    """How an experiment of a run sees a video. Plain values, so that it can be written as JSON and read back."""

    experiment: str
    fusion: Fusion | Literal["none"]  # "none": Base alone
    boxes: Focus  # where the second network looks; of Base alone, where it would look
    pixels: Pixels
    fuse: Literal["logits", "scores"]
    saliency_from: SaliencyFrom  # the network whose gradient chooses the boxes
    seeds: tuple[int, int]  # of random boxes: of the plan and of the training
    network: str
    options: Options
    classes: tuple[str, ...]
    clips: Clips
    saliency: Saliency
    source_fps: float  # of folders of frames; 0 = unknown
    batch_size: int  # of the second network
    protocol: str
    base: str  # identity of Base's weights
    weights: str  # of the second network; of Base alone, Base's
    task: Task = "multi_label"
    pooling: Literal["max", "mean"] = "max"  # over the windows of a video
    pool_boxes: Literal["max", "mean"] = "max"  # over the boxes of a window, in late fusion
    looker: str = ""  # the folder of the head that chooses the boxes; "" where none does
    thresholds: tuple[float, ...] = ()  # by class, stored with the model; () where there are none

    @property
    def stored_thresholds(self) -> pd.Series | None:
        """The thresholds that are stored with the model, by class."""
        return pd.Series(self.thresholds, list(self.classes)) if self.thresholds else None

    @property
    def second_frames(self) -> int:
        """How many frames the second network sees at once."""
        boxes = 1 if self.boxes == "repeat" else num_boxes(self.saliency)
        return fused_frames(self.clips.num_frames, self.fusion, boxes)

    @property
    def segment_frames(self) -> int:
        """For how many frames of a window a box holds; 0 for all."""
        segments = self.saliency.time_segments
        return self.clips.num_frames // segments if segments > 1 else 0

    @property
    def policy(self) -> str:
        """How boxes are found: that of `boxes`, and where the second volume is V_in again, where Base would look."""
        return "entropy" if self.boxes == "repeat" else self.boxes

    @property
    def objective(self) -> Objective | None:
        """The objective whose map chooses the boxes; None where no map is needed."""
        return self.policy if self.policy in OBJECTIVES else None

    def scored_by(self) -> dict:
        """Return what stands beside every table: which weights made it, and how clips are made and scored."""
        names = ("experiment", "boxes", "base", "weights", "protocol")
        stored = dict(zip(self.classes, self.thresholds, strict=True)) if self.thresholds else None
        facts = {name: getattr(self, name) for name in names}
        return facts | {"classes": list(self.classes), "thresholds_stored": stored}


def of_run(
    run_dir: Path, experiment: str | None = None, overrides: tuple[str, ...] = ()
) -> tuple[Settings, BaseWeights, TrainedModel | None]:
    """Return the settings of an experiment of a run, its Base, and its fusion model, None for Base alone.

    Args:
        experiment: as in results.csv, or a folder in models/; None for the highest result that knows no labels.
        overrides: of the run's config.toml, as `--set` takes them.
    Raises:
        StageError: no run, no trained Base, no such experiment, or its boxes know the labels.
    """
    if not (run_dir / "config.toml").is_file():
        raise StageError(f"{run_dir}: no run and no exported model, which have a config.toml or a config.json")
    return of_config(load(str(run_dir / "config.toml"), overrides, run_dir), run_dir, experiment)


def of_config(
    config: Config, run_dir: Path, experiment: str | None
) -> tuple[Settings, BaseWeights, TrainedModel | None]:
    """Return as `of_run`, with a config instead of the run's own."""
    run = open_folder(run_dir, config)
    base = load_base(run, config)
    models = [read_model(path.parent) for path in sorted((run_dir / "models").glob("*/model.json"))]
    models = [model for model in models if model.base == base.sha256]
    model, boxes_eval = _choose(run_dir, models, base, experiment)
    settings = _settings(config, run, base, model, boxes_eval)
    if settings.boxes == "cross_entropy":
        other = f"--experiment {settings.experiment.partition(EVALUATED)[0]}{EVALUATED}entropy looks without them"
        raise StageError(f"{settings.experiment}: its boxes know the labels, which a new video lacks; {other}")
    return settings, base, model


def _choose(
    run_dir: Path, models: list[TrainedModel], base: BaseWeights, experiment: str | None
) -> tuple[TrainedModel | None, Focus | None]:
    """Return the model of an experiment and the boxes that its name asks for; see `of_run`."""
    known = ["base", *dict.fromkeys(model.name for model in models)]
    if experiment is None:
        return _best(run_dir, models, base), None
    name, _, boxes = experiment.partition(EVALUATED)
    if boxes and boxes not in POLICIES:
        raise StageError(f"experiment {experiment!r}: boxes {boxes!r} are none of {', '.join(POLICIES)}")
    if name == "base":
        return None, boxes or None
    found = [model for model in models if name in (model.name, model.folder.name)]
    if not found:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise StageError(f"{run_dir} has no experiment {experiment!r}; it has {', '.join(known)}{hint}")
    if len(found) > 1:
        folders = ", ".join(model.folder.name for model in found)
        raise StageError(f"{run_dir} has {len(found)} models {name}; name one by its folder: {folders}")
    return found[0], boxes or None


def _best(run_dir: Path, models: list[TrainedModel], base: BaseWeights) -> TrainedModel | None:
    """Return the model with the highest mAP, or top-1 accuracy, among the results with its own boxes.

    Without results the only one, or None for Base.
    """
    by_weights = {base.sha256: None} | {model.weights: model for model in models}
    results = [read_record(path) for path in run_dir.glob(RESULTS)]
    results = [one for one in results if one["weights"] in by_weights and one["map"] is not None and not one["oracle"]]
    results = [one for one in results if one["boxes_train"] == one["boxes_eval"]]
    if results:
        return by_weights[max(results, key=lambda one: one[main_metric(one)])["weights"]]
    if len(models) > 1:
        names = ", ".join(dict.fromkeys(model.name for model in models))
        raise StageError(f"{run_dir}: no result says which model is the best; evaluate, or say --experiment: {names}")
    return models[0] if models else None


def _settings(
    config: Config, run: RunFolder, base: BaseWeights, model: TrainedModel | None, boxes_eval: Focus | None
) -> Settings:
    fusion, boxes, pixels = model.variant if model else ("none", "entropy", "source")
    saliency_from = model.saliency_from if model else "base"
    name = model.name if model else "base"
    saliency = replace(config.saliency, box_jitter=0)
    if model and (not boxes_eval or boxes == "repeat"):
        saliency = replace(as_trained(saliency, model.boxes), box_jitter=0)
    elif model:
        model.check_count(saliency)
    if boxes_eval and boxes_eval != boxes and boxes != "repeat":
        name, boxes, saliency_from = f"{name}{EVALUATED}{named(boxes_eval, saliency)}", boxes_eval, "base"
    # chance and the middle know no time, nor does a table that is given instead of them
    saliency = replace(saliency, time_segments=num_segments("entropy" if boxes == "repeat" else boxes, saliency))
    folder, weights = (model.folder, model.weights) if model else (base.folder, base.sha256)
    # as `clip_scores.box_stores`: random boxes are those of the model's own seed
    seed = model.seed if model and boxes == "random" else config.seed
    return Settings(
        **{"experiment": name, "fusion": fusion, "boxes": boxes, "pixels": pixels, "saliency_from": saliency_from},
        fuse=model.fuse if model else "logits",
        seeds=(config.clips.plan_seed, seed),
        network=base.network,
        options=base.options,
        classes=tuple(run.classes),
        clips=config.clips,
        saliency=saliency,
        source_fps=config.data.source_fps,
        batch_size=config.fusion.batch_size,
        protocol=protocol(replace(config, saliency=saliency)),
        task=config.data.task,
        pooling=pooling_of(config),
        pool_boxes=model.pool_boxes if model else "max",
        base=base.sha256,
        weights=weights,
        looker=_looker(config, run, base) if boxes == "looker" else "",
        thresholds=_thresholds(folder, run.classes, weights),
    )


def _looker(config: Config, run: RunFolder, base: BaseWeights) -> str:
    """Return the name of the folder of the config's looker; StageError where it is not trained."""
    folder = Stores(run, config, base).looker_folder
    looker_sha256(folder)
    return folder.name


def _thresholds(folder: Path, classes: list[str], weights: str) -> tuple[float, ...]:
    """Return the thresholds that `evaluate --thresholds` stored with a model, by class; () where there are none."""
    if not (folder / THRESHOLDS).is_file():
        return ()
    facts = read_sealed(folder / THRESHOLDS, "thresholds", "weights")
    if facts["weights"] != weights:  # the model was trained anew
        return ()
    return tuple(facts["thresholds"][name] for name in classes)
