"""Results of a run: one sealed record each, and results.csv made from them."""

from pathlib import Path

import numpy as np

from cache.sealed import read_record, read_recorded_file, write_record
from pipeline.config import Config
from pipeline.data.strict_csv import csv_bytes

COLUMNS = (
    *("experiment", "fusion", "boxes_train", "boxes_eval", "pixels", "oracle", "seed", "eval_clips", "map"),
    *("map_official", "map_windowed", "num_videos", "num_missing", "num_classes", "boxes_on_target", "protocol", "key"),
)


def protocol(config: Config) -> str:
    """Return what stands beside every number: how clips are made and scored."""
    clips, fusion, saliency = config.clips, config.fusion, config.saliency
    text = (
        f"T_in {clips.num_frames} at {clips.fps:g} fps, {clips.resize} resize to {clips.resized_side}, "
        f"input {clips.input_side}, box {saliency.box_side}, {clips.eval_clips} clips, max over clips"
    )
    if saliency.method != "input_gradient":
        text += f", saliency {saliency.method}"
    return text + (f", S = {clips.aug_seeds} stored augmentations" if clips.aug_seeds < fusion.epochs else "")


def rebuild(run_dir: Path) -> None:
    """Make results.csv from all result files, a row each, and results.json, which vouches for it."""
    results = [read_record(path) for path in sorted((run_dir / "results").glob("*.json"))]
    results.sort(key=lambda result: (result["experiment"] != "base", result["experiment"], result["key"]))
    rows = [[result.get(name, "") for name in COLUMNS] for result in results]
    write_record(run_dir / "results.json", {}, {"results.csv": csv_bytes(COLUMNS, rows)})


def read_result(path: Path) -> tuple[dict, list[str], np.ndarray]:
    """Return a result's facts, its video ids in the order of the annotations, their scores float64 (V, C)."""
    lines = [line.split(" ") for line in read_recorded_file(path, f"{path.stem}.scores.txt").decode().splitlines()]
    return read_record(path), [line[0] for line in lines], np.array([line[1:] for line in lines], float)
