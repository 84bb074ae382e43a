"""evaluate: the clips of each evaluation video to scores, mAP by the official rule, accuracies; a file a model."""

import json
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

from cache.errors import StaleCacheError
from cache.fingerprint import fingerprint
from cache.sealed import read_record, write_record
from models.fusion import video_scores
from pipeline.box_settings import is_same_rule, named, num_segments
from pipeline.config import Config, Focus, Policy, pooling_of
from pipeline.config_keys import task_settings
from pipeline.data.miniature import truth
from pipeline.data.video.find import file_name
from pipeline.errors import StageError
from pipeline.metrics import map_official, mean_average_precision, mean_class_accuracy, submission, top_k_hits
from pipeline.run.folder import RunFolder, holds_run, open_folder
from pipeline.run.fusion_models import TrainedModel, read_model
from pipeline.run.outcome import Outcome
from pipeline.run.results import made_with, protocol, rebuild
from pipeline.run.stores import Stores, boxes_of, open_run, open_stores
from pipeline.training.clip_scores import as_trained_stores, box_stores, left_out, scores_by_video
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import World, current_world, join_world

log = logging.getLogger(__name__)


@holds_run
def run(
    config: Config,
    run_dir: Path,
    boxes_eval: Policy | None = None,
    eval_ids: tuple[str, ...] = (),
    use_labels: bool = False,
    caches: Path | None = None,
) -> Outcome:
    """Evaluate Base and every fusion model that was trained from it in this run.

    Reads the plan, the labels, base/, context/, crops/ and models/. Writes results/<key>.json, <key>.scores.txt (the
    official submission format), <key>.per_class.csv, and results.csv, rebuilt from all of them. Processes of torchrun
    share the batches; the first one writes.

    Args:
        boxes_eval: boxes at evaluation, by the rule of the config; None for those at training, by their rule.
        eval_ids: only these evaluation videos; empty for all.
        use_labels: allow boxes that come from the labels; such results are marked as oracle.
        caches: another run folder, or a mirror of one, whose plan, labels, Base and caches are read.
    Raises:
        StageError: the plan has no evaluation video, or a stage before this one has not finished.
    """
    with join_world(pick_device(config.device)) as world:
        run = open_folder(run_dir, config, caches)
        ids = _video_ids(run, config.clips.eval_clips, eval_ids)
        if not (run.source / "tables.json").exists():
            log.warning(
                "%s: no record says that its labels are those that prepare wrote; prepare writes one", run.source
            )
        stores = open_stores(run, config)
        trained = [read_model(run_dir / "models" / name) for name in _model_names(run_dir, world)]
        models = [None, *(model for model in trained if model.base == stores.base_weights.sha256)]
        paths = [_result(stores, model, boxes_eval, ids, use_labels) for model in models]
        if world.is_main:
            rebuild(run)
        world.barrier()
        _require_scored(models, paths)
        return Outcome(run_dir / "results.csv", f"{len(models)} models; {protocol(config)}")


@holds_run
def run_model(
    config: Config, run_dir: Path, folder: Path | None, boxes_eval: Focus | None = None, use_labels: bool = False
) -> Path:
    """Evaluate the model in `folder`, None for Base, unless that is done; return its results/<key>.json. See `run`."""
    stores, model = open_run(run_dir, config), folder and read_model(folder)
    path = _result(stores, model, boxes_eval, _video_ids(stores.run, config.clips.eval_clips), use_labels)
    _require_scored([model], [path])
    return path


def result_path(config: Config, run_dir: Path, folder: Path | None, boxes_eval: Focus | None = None) -> Path:
    """Return where `run_model` writes its result. Base, and the model in `folder`, must be trained."""
    stores = open_run(run_dir, config)
    ids = _video_ids(stores.run, config.clips.eval_clips)
    model = folder and read_model(folder)
    facts = _experiment(_stores_for(stores, model, boxes_eval), model, boxes_eval, ids)
    return run_dir / "results" / f"{facts['key']}.json"


def _model_names(run_dir: Path, world: World) -> list[str]:
    """Return the folders of the trained fusion models, as the first process sees them."""
    found = sorted(path.parent.name for path in (run_dir / "models").glob("*/model.json"))
    return json.loads(world.broadcast(json.dumps(found).encode()))


def _video_ids(run: RunFolder, eval_clips: int, eval_ids: tuple[str, ...] = ()) -> list[str]:
    """Return the evaluation videos of the plan, in the order of the annotations, which breaks ties."""
    planned = {video_id for part in run.parts_of("test") for video_id in part.rows.video_id}
    if not planned:
        raise StageError("the plan has no evaluation video; `prepare --eval-ids ID,...` moves some there")
    if unknown := set(eval_ids) - planned:
        names = ", ".join(sorted(unknown))
        raise StageError(f"--eval-ids: {names} not among the plan's {len(planned)} evaluation videos")
    for part in run.parts_of("test"):
        if part.rows_per_video != eval_clips:
            raise StaleCacheError(
                f"clips.eval_clips: {eval_clips}, the plan has {part.rows_per_video} clips a video; use that number, "
                "or prepare another --run (make: RUN=)"
            )
    wanted = set(eval_ids) or planned
    return [video_id for video_id in run.annotations.videos.video_id if video_id in wanted]


def _result(
    stores: Stores, model: TrainedModel | None, boxes_eval: Focus | None, ids: list[str], use_labels: bool
) -> Path:
    """Return the result file of one model, None for Base; compute it if it is not there, or scored other videos."""
    stores = _stores_for(stores, model, boxes_eval)
    facts = _experiment(stores, model, boxes_eval, ids)
    if facts["oracle"] and not use_labels:
        raise StageError(f"{facts['experiment']}: its evaluation boxes know the labels; say --use-labels")
    path = stores.run.path / "results" / f"{facts['key']}.json"
    boxes = _policy(model, boxes_eval)
    if not current_world().broadcast(path.exists() and _is_current(stores, model, boxes, ids, path)):
        _evaluate(stores, model, boxes, facts, ids, path)
    return path


def _policy(model: TrainedModel | None, boxes_eval: Focus | None) -> Focus | Literal["none"]:
    """Return where a model looks at evaluation."""
    if model is None:
        return "none"
    return "repeat" if model.variant.boxes == "repeat" else boxes_eval or model.variant.boxes


def _stores_for(stores: Stores, model: TrainedModel | None, boxes_eval: Focus | None) -> Stores:
    """Return the stores for evaluating a model: by its own rule of boxes, unless boxes are asked for; see `run`.

    Raises:
        StageError: see `check_count`.
    """
    if model is None or boxes_eval is None or model.variant.boxes == "repeat":
        return as_trained_stores(stores, model)
    model.check_count(stores.config.saliency)
    return stores


def _is_current(stores: Stores, model: TrainedModel | None, boxes: Focus, ids: list[str], path: Path) -> bool:
    """Whether a result scored as many videos as there are now: some that were left out may have been taken in again."""
    return read_record(path)["num_videos"] == len(set(ids) - left_out(stores, model, boxes))


def _require_scored(models: list[TrainedModel | None], paths: list[Path]) -> None:
    """Raise StageError where models have no result, because their scores are NaN."""
    names = [
        str(model.folder) if model else "Base" for model, path in zip(models, paths, strict=True) if not path.exists()
    ]
    if names:
        raise StageError(
            f"the scores of {', '.join(names)} are NaN: its training diverged. Delete it and train with a lower rate; "
            "the other results are written"
        )


def _experiment(stores: Stores, model: TrainedModel | None, boxes_eval: Focus | None, ids: list[str]) -> dict:
    """Return what a result is about, and its key: the fields of its JSON file that are known before scoring."""
    run, config, part = stores.run, stores.config, stores.run.parts_of("test")[0]
    if model is None:
        facts = {"experiment": "base", "fusion": "none", "boxes_train": "none", "boxes_eval": "none", "pixels": "input"}
        facts |= {"weights": stores.base_weights.sha256, "seed": config.seed}
        made_from = stores.base_settings(part)
    else:
        fusion, boxes_train, pixels = model.variant
        boxes = _policy(model, boxes_eval)
        made_from = {}
        if boxes != "repeat":
            made_from = box_stores(stores, model, boxes).crops_settings(part, boxes, pixels)
        as_trained = boxes == boxes_train and is_same_rule(made_from.get("boxes", {}), model.boxes)
        name = model.name + ("" if as_trained else f"-eval-{named(boxes, config.saliency)}")
        facts = {"experiment": name, "fusion": fusion, "boxes_train": model.boxes_name(config.saliency)}
        facts |= {"boxes_eval": named(boxes, config.saliency)}
        facts |= {"pixels": pixels, "seed": model.seed, "weights": model.weights}
    facts["oracle"] = _policy(model, boxes_eval) == "cross_entropy"
    facts["protocol"], facts["eval_clips"] = protocol(config), config.clips.eval_clips
    identity = {"made_from": made_from, "labels": run.labels_sha256, "ids": ids, **facts}
    identity |= task_settings(config)
    identity["plan"] = {one.name: one.rows_sha256 for one in run.parts_of("test")}
    return facts | {"key": f"{facts['experiment']}-{fingerprint(json.loads(json.dumps(identity)))}"}


def _evaluate(
    stores: Stores, model: TrainedModel | None, boxes: Focus, facts: dict, ids: list[str], path: Path
) -> None:
    """Score one model on the given videos and write its result files; the JSON, which counts, comes last."""
    annotations = stores.run.annotations
    by_clip, windowed = scores_by_video(stores, model, boxes, set(ids))
    scored = [video_id for video_id in ids if video_id in by_clip]
    if not scored:
        raise StageError(f"{facts['experiment']}: none of the {len(ids)} evaluation videos could be read")
    if len(scored) < len(ids):
        log.warning("%d of %d evaluation videos were left out by earlier stages", len(ids) - len(scored), len(ids))
    if not current_world().is_main:
        return
    task, pooling = stores.config.data.task, pooling_of(stores.config)
    clips = (torch.from_numpy(by_clip[video_id]) for video_id in scored)
    scores = np.stack([video_scores(logits, task, pooling).numpy() for logits in clips])
    if np.isnan(scores).any():
        return  # see `_require_scored`
    targets = annotations.video_targets(scored)
    result = mean_average_precision(scores, targets)
    listed = annotations.videos.video_id[annotations.videos.split == "test"].tolist()
    official = map_official(dict(zip(scored, scores, strict=True)), listed, annotations.video_targets(listed))
    in_windows = mean_average_precision(scores, np.stack([windowed[video_id] for video_id in scored]))
    on_target = None
    if stores.config.data.format == "miniature" and boxes not in ("none", "repeat"):
        on_target = boxes_on_target(box_stores(stores, model, boxes), boxes)
    facts = facts | {
        **made_with(stores.run),
        "scores": "logits",
        "map": result.map,
        "map_official": official.map,
        "map_windowed": in_windows.map,
        "num_videos": len(scored),
        "num_missing": len(listed) - len(set(scored) & set(listed)),
        "num_classes": result.num_classes,
        "boxes_on_target": on_target,
        **(_accuracies(scores, targets) if task == "single_label" else {}),
    }
    table = pd.DataFrame({"class": annotations.classes, "positives": targets.sum(0), "ap": result.per_class})
    finite = {name: None if value != value else value for name, value in facts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {f"{path.stem}.scores.txt": submission([*map(file_name, scored)], scores)}
    files[f"{path.stem}.per_class.csv"] = table.to_csv(index=False).encode()
    write_record(path, finite, files)


def _accuracies(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the metrics of single labels; top5 of five classes or fewer is 1."""
    found = {f"top{k}": float(top_k_hits(scores, targets, k).mean()) for k in (1, 5)}
    return found | {"mean_class_accuracy": mean_class_accuracy(scores, targets)}


def boxes_on_target(stores: Stores, policy: Policy) -> float:
    """Return, for the miniature only, the share of evaluation clips whose boxes hold every card; see `truth`."""
    cards = truth.read_cards(Path(stores.config.data.videos))
    hits, segments = [], num_segments(policy, stores.config.saliency)
    for part in stores.run.parts_of("test"):
        found = boxes_of(stores, part, policy)
        hits += [truth.on_target(cards, part, row, found[row], segments) for row in range(part.num_rows)]
    return float(np.mean(hits))
