"""Results of a run: one sealed record each, and results.csv made from them."""

from pathlib import Path

import numpy as np

from cache.commit import locked
from cache.fingerprint import canonical
from cache.layout import RESULTS
from cache.sealed import read_record, read_recorded_file, write_record
from pipeline.box_settings import boxes_words
from pipeline.config import Config, pooling_of
from pipeline.data.strict_csv import csv_bytes
from pipeline.data.video.find import id_of
from pipeline.metrics import mean_average_precision
from pipeline.run.costs import COST_COLUMNS, cost_cells, read_costs
from pipeline.run.folder import RunFolder

TOLERANCE = 1e-9  # between a stored mAP and the one computed again from the scores file
COLUMNS = (
    *("experiment", "fusion", "boxes_train", "boxes_eval", "pixels", "oracle", "seed", "eval_clips", "map"),
    *("map_official", "map_windowed", "num_videos", "num_missing", "num_classes", "boxes_on_target", "protocol", "key"),
    *("superseded", "top1", "top5", "mean_class_accuracy", *COST_COLUMNS),
)


def main_metric(facts: dict) -> str:
    """Return by what a result is compared: "top1" where its videos have a single label, else "map"."""
    return "top1" if "top1" in facts else "map"


def protocol(config: Config) -> str:
    """Return what stands beside every number: how clips are made and scored."""
    clips, fusion, saliency = config.clips, config.fusion, config.saliency
    text = (
        f"T_in {clips.num_frames} at {clips.fps:g} fps, {clips.resize} resize to {clips.resized_side}, "
        f"input {clips.input_side}, {boxes_words(saliency)}, {clips.eval_clips} clips, {pooling_of(config)} over clips"
    )
    if saliency.method != "input_gradient":
        text += f", saliency {saliency.method}"
    elif saliency.gradient_at != "pixels":
        text += f", gradient at {saliency.gradient_at}"
    if config.data.task == "single_label":
        text += ", one label a video"
    return text + (f", S = {clips.aug_seeds} stored augmentations" if clips.aug_seeds < fusion.epochs else "")


def rebuild(run: RunFolder) -> None:
    """Make results.csv from all result files, a row each, and results.json, which vouches for it.

    `superseded` says why a result is no longer one of this run: its "labels" or its evaluation "videos" are others now,
    or its "network" was trained anew, see `_outdated`.
    """
    with locked(run.path / "results" / ".lock", wait=True):  # the table and its record belong together
        paths, costs = sorted(run.path.glob(RESULTS)), read_costs(run.path)
        results = [read_record(path) for path in paths]
        outdated = _outdated(run, results)
        results = [
            one | cost_cells(costs.get(one["key"])) | {"superseded": _superseded(run, path, outdated)}
            for path, one in zip(paths, results, strict=True)
        ]
        results.sort(key=lambda result: (result["experiment"] != "base", result["experiment"], result["key"]))
        rows = [[result.get(name, "") for name in COLUMNS] for result in results]
        write_record(run.path / "results.json", {}, {"results.csv": csv_bytes(COLUMNS, rows)})


def made_with(run: RunFolder) -> dict:
    """Return what a result says of the labels and the evaluation videos that it was made with."""
    return {"labels_sha256": run.labels_sha256, "plan": {part.name: part.rows_sha256 for part in run.parts_of("test")}}


def _outdated(run: RunFolder, results: list[dict]) -> set[str]:
    """Return the weights of networks that do not count any more.

    These are a Base that is gone, and all that was trained from it; and fusion models that were trained anew by the
    same recipe on the labels and videos of now, or with fewer videos left out. What was not trained anew counts.
    """
    bases = {read_record(path)["weights"] for path in (run.source / "models").glob("base-*/base.json")}
    outdated = {one["weights"] for one in results if one["fusion"] == "none"} - bases
    now = {"labels_sha256": run.labels_sha256, "plan": {part.name: part.rows_sha256 for part in run.parts_of("train")}}
    by_recipe: dict[str, list[tuple]] = {}
    for path in run.path.glob("models/*/model.json"):
        facts = read_record(path)
        outdated |= {facts["weights"]} if facts["base"] not in bases else set()
        rank = all(facts.get(name) == value for name, value in now.items()), -len(facts.get("left_out", ()))
        by_recipe.setdefault(canonical(_recipe(facts)), []).append((rank, facts["weights"]))
    for models in by_recipe.values():
        best = max(models)[0]
        if best[0]:
            outdated |= {one for _, one in models} - {one for rank, one in models if rank == best}
    return outdated


def _recipe(facts: dict) -> dict:
    """Return what a model was made from, at all levels, without its weights and what says on which data."""
    data = ("weights", "labels_sha256", "labels", "plan", "left_out", "num_videos")
    kept = {name: value for name, value in facts.items() if name not in data}
    return {name: _recipe(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _superseded(run: RunFolder, path: Path, outdated: set[str]) -> str:
    """Return which of labels, videos and network have changed since a result was made, or ""."""
    facts, now = read_record(path), made_with(run)
    if "labels_sha256" in facts:
        same_labels = facts["labels_sha256"] == now["labels_sha256"]
    else:  # made before results said it
        _, ids, scores = read_result(path)
        found = mean_average_precision(scores, run.annotations.video_targets(ids)).map
        same_labels = same_map(found, facts["map"])
    changed = [] if same_labels else ["labels"]
    changed += ["videos"] if facts.get("plan", now["plan"]) != now["plan"] else []
    changed += ["network"] if facts["weights"] in outdated else []
    return " and ".join(changed)


def same_map(computed: float, stored: float | None) -> bool:
    """Whether a stored mAP, None for NaN, is that which its scores file gives."""
    return bool(np.isclose(computed, np.nan if stored is None else stored, rtol=0, atol=TOLERANCE, equal_nan=True))


def read_result(path: Path) -> tuple[dict, list[str], np.ndarray]:
    """Return a result's facts, its video ids in the order of the annotations, their scores float64 (V, C)."""
    lines = [line.split(" ") for line in read_recorded_file(path, f"{path.stem}.scores.txt").decode().splitlines()]
    return read_record(path), [id_of(line[0]) for line in lines], np.array([line[1:] for line in lines], float)
