"""evaluate: the maximum over the clips of each evaluation video, mAP by the official rule, one result file a model."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd

from cache.fingerprint import fingerprint
from cache.sealed import write_record
from pipeline.config import Config, Policy
from pipeline.data.miniature import truth
from pipeline.errors import StageError
from pipeline.metrics import map_official, mean_average_precision, submission
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights, load_base, read_trained
from pipeline.run.outcome import Outcome
from pipeline.run.results import protocol, rebuild
from pipeline.run.stores import base_settings, boxes_of, crops_settings
from pipeline.training.clip_scores import looking, scores_by_video
from pipeline.workers.device import pick_device
from pipeline.workers.distributed import Team, joined, own_team

log = logging.getLogger(__name__)


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
        boxes_eval: boxes at evaluation, where they shall differ from those at training.
        eval_ids: only these evaluation videos.
        use_labels: allow boxes that come from the labels; such results are marked as oracle.
        caches: another run folder, or a mirror of one, whose plan, labels, Base and caches are read.
    Raises:
        StageError: the plan has no evaluation video, or a stage before this one has not finished.
    """
    with joined(pick_device(config)) as team:
        workspace = Workspace(run_dir, config, caches)
        ids = _video_ids(workspace, eval_ids)
        base = load_base(workspace)
        trained = [_model(run_dir / "models" / name) for name in _model_names(run_dir, team)]
        models = [None, *(model for model in trained if model[1]["base"] == base.sha256)]
        for model in models:
            _result(workspace, base, model, boxes_eval, ids, use_labels)
        if team.leads:
            rebuild(run_dir)
        team.wait()
        return Outcome(run_dir / "results.csv", f"{len(models)} models; {protocol(workspace)}")


def run_model(
    config: Config, run_dir: Path, folder: Path | None, boxes_eval: Policy | None = None, use_labels=False
) -> Path:
    """Evaluate one model on all evaluation videos, unless that is done; see `run`.

    Args:
        folder: of the trained fusion model; None for Base.
    Returns:
        its results/<key>.json.
    """
    workspace = Workspace(run_dir, config)
    return _result(workspace, load_base(workspace), _model(folder), boxes_eval, _video_ids(workspace, ()), use_labels)


def result_path(workspace: Workspace, folder: Path | None, boxes_eval: Policy | None = None) -> Path:
    """Where `run_model` writes, or has written, its result. Base, and the model in `folder`, must be trained."""
    facts = _experiment(workspace, load_base(workspace), _model(folder), boxes_eval, _video_ids(workspace, ()))
    return workspace.path / "results" / f"{facts['key']}.json"


def _model_names(run_dir: Path, team: Team) -> list[str]:
    """Folders of the trained fusion models, as the first process sees them."""
    found = sorted(path.parent.name for path in (run_dir / "models").glob("*/model.json"))
    return json.loads(team.send(json.dumps(found).encode()))


def _model(folder: Path | None) -> tuple[Path, dict] | None:
    """A trained fusion model: its folder and what it was made from; None for Base."""
    return None if folder is None else (folder, read_trained(folder / "model.json"))


def _result(workspace: Workspace, base: BaseWeights, model, boxes_eval: Policy | None, ids: list[str], use_labels):
    """The result file of one model, computed if it is not there."""
    facts = _experiment(workspace, base, model, boxes_eval, ids)
    if facts["oracle"] and not use_labels:
        raise StageError(f"{facts['experiment']}: its evaluation boxes know the labels; say --use-labels")
    path = workspace.path / "results" / f"{facts['key']}.json"
    if not own_team().leaders(path.exists()):
        _evaluate(workspace, base, model, facts, ids, path)
    return path


def _video_ids(workspace: Workspace, eval_ids: tuple[str, ...]) -> list[str]:
    """Evaluation videos of the plan, in the order of the annotations, which breaks ties."""
    planned = {video_id for part in workspace.parts_of("test") for video_id in part.rows.video_id}
    if not planned:
        raise StageError("the plan has no evaluation video; `prepare --eval-ids ID,...` moves some there")
    if unknown := set(eval_ids) - planned:
        raise StageError(
            f"--eval-ids: {', '.join(sorted(unknown))} not among the plan's {len(planned)} evaluation videos"
        )
    wanted = set(eval_ids) or planned
    return [video_id for video_id in workspace.annotations.videos.video_id if video_id in wanted]


def _experiment(workspace: Workspace, base: BaseWeights, model, boxes_eval: Policy | None, ids: list[str]) -> dict:
    """What a result is about, and its key."""
    part, config = workspace.parts_of("test")[0], workspace.config
    if model is None:
        facts = {"experiment": "base", "fusion": "none", "boxes_train": "none", "boxes_eval": "none", "pixels": "input"}
        made_from = base_settings(workspace, part, base.sha256)
        facts |= {"weights": base.sha256, "seed": config.seed}
    else:
        trained = model[1]
        repeat = trained["boxes_train"] == "repeat"
        boxes = "repeat" if repeat else boxes_eval or trained["boxes_train"]
        name = trained["name"] + (f"-eval-{boxes}" if boxes != trained["boxes_train"] else "")
        facts = {"experiment": name, "boxes_eval": boxes}
        facts |= {column: trained[column] for column in ("fusion", "boxes_train", "pixels", "seed", "weights")}
        lookers = looking(workspace, base, model, boxes)
        made_from = {} if repeat else crops_settings(lookers[0], part, lookers[1].sha256, boxes, trained["pixels"])
    facts["oracle"] = facts["boxes_eval"] == "cross_entropy"
    facts["protocol"], facts["eval_clips"] = protocol(workspace), config.clips.eval_clips
    identity = {"made_from": made_from, "labels": workspace.labels_sha256, "ids": ids, **facts}
    identity["plan"] = {one.name: one.rows_sha256 for one in workspace.parts_of("test")}
    return facts | {"key": f"{facts['experiment']}-{fingerprint(json.loads(json.dumps(identity)))}"}


def _evaluate(workspace: Workspace, base: BaseWeights, model, facts: dict, ids: list[str], path: Path) -> None:
    """Score one model on the given videos and write its result files; the JSON, which counts, comes last."""
    annotations = workspace.annotations
    by_clip, windowed = scores_by_video(workspace, base, model, facts, set(ids))
    scored = [video_id for video_id in ids if video_id in by_clip]
    if not scored:
        raise StageError(f"{facts['experiment']}: none of the {len(ids)} evaluation videos could be read")
    if len(scored) < len(ids):
        log.warning("%d of %d evaluation videos were left out by earlier stages", len(ids) - len(scored), len(ids))
    if not own_team().leads:
        return
    scores = np.stack([by_clip[video_id].max(0) for video_id in scored])  # maximum over clips
    result = mean_average_precision(scores, annotations.video_targets(scored))
    listed = annotations.videos.video_id[annotations.videos.split == "test"].tolist()
    official = map_official(dict(zip(scored, scores, strict=True)), listed, annotations.video_targets(listed))
    in_windows = mean_average_precision(scores, np.stack([windowed[video_id] for video_id in scored]))
    on_target = None
    if workspace.config.data.format == "miniature" and facts["boxes_eval"] not in ("none", "repeat"):
        on_target = boxes_on_target(*looking(workspace, base, model, facts["boxes_eval"]), facts["boxes_eval"])
    facts = facts | {
        "map": result.map,
        "map_official": official.map,
        "map_windowed": in_windows.map,
        "num_videos": len(scored),
        "num_missing": len(listed) - len(set(scored) & set(listed)),
        "num_classes": result.num_classes,
        "boxes_on_target": on_target,
    }
    counts = annotations.video_targets(scored).sum(0)
    table = pd.DataFrame({"class": annotations.classes, "positives": counts, "ap": result.per_class})
    finite = {name: None if value != value else value for name, value in facts.items()}
    path.parent.mkdir(exist_ok=True)
    files = {f"{path.stem}.scores.txt": submission(scored, scores)}
    files[f"{path.stem}.per_class.csv"] = table.to_csv(index=False).encode()
    write_record(path, finite, files)


def boxes_on_target(workspace: Workspace, base: BaseWeights, policy: Policy) -> float:
    """Miniature only: the share of evaluation clips whose box holds every card, see `miniature_truth`."""
    cards = truth.read_cards(workspace.videos_root)
    hits = []
    for part in workspace.parts_of("test"):
        found = boxes_of(workspace, base, part, policy)
        hits += [truth.on_target(cards, part, row, found[row]) for row in range(part.num_rows)]
    return float(np.mean(hits))
