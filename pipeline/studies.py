"""Studies beside Table 2: clip lengths (the paper's Table 1), box sizes, and ways to compute saliency."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.commit import write_file
from pipeline import evaluate, saliency, train_base
from pipeline.annotations import read_plain
from pipeline.base import load_base
from pipeline.config import Config
from pipeline.contrasts import contrast
from pipeline.experiments import Row, ensure_prepared, run_rows, seed_configs, stored_result
from pipeline.prepare_annotations import labels_csv
from pipeline.result_files import read_result
from pipeline.tables import (
    INTERVAL_NOTE,
    ORACLE_NOTE,
    Table,
    percent,
    protocol,
    read_results,
    scored,
    spread,
    weights_of,
    write_csv,
    write_pages,
)
from pipeline.volumes import boxes_of
from pipeline.workspace import Outcome, Workspace

BASE = Row("base", "late", None, None, "input")
ATTENTION = Row("e/e", "late", "entropy", "entropy", "source")

PAPER_TABLE_1 = {16: 27.8, 32: 30.3, 64: 31.6}  # T_in -> mAP in per cent
PAPER_BATCHES = {16: 20, 32: 16, 64: 12}  # T_in -> clips of a step, section 5.3
MINIATURE_FRAMES = (4, 8, 16)


def table1(config: Config, run_dir: Path, num_seeds: int = 1, frames: Sequence[int] = ()) -> Outcome:
    """Base at several T_in; writes report/table1.csv, .md and .html.

    The config's own T_in is that of the run; every other has a run of its own beside it, <run>-t<T_in>.

    Args:
        frames: values of T_in; none for the paper's, or the miniature's.
    """
    frames = frames or (MINIATURE_FRAMES if config.data.format == "miniature" else tuple(PAPER_TABLE_1))
    lines, notes, skipped = [], [], 0
    for length in frames:
        one, folder = _with_frames(config, run_dir, length)
        skipped = max(skipped, ensure_prepared(one, folder))
        configs = seed_configs(one, folder, num_seeds)
        skipped = max(skipped, *(run_rows(seeded, folder, [BASE]) for seeded in configs))
        found = read_results(configs, folder, [BASE])[BASE]
        official = one.data.format == "charades" and not one.data.eval_ids
        official = official and not any(result.facts["num_missing"] for result in found.values())
        line = {"frames": length, **spread([result.facts["map"] for result in found.values()])}
        lines.append(line | {"paper_map": PAPER_TABLE_1.get(length) if official else None})
        notes.append(protocol(one, folder, weights_of(found)))
    columns = ("frames", "num_seeds", "map_mean", "map_std", "paper_map")
    return _write(run_dir, "table1", Table("Table 1: Base at several T_in", columns, lines, tuple(notes)), skipped)


def _with_frames(config: Config, run_dir: Path, length: int) -> tuple[Config, Path]:
    """Config and run folder of one T_in; Charades takes the paper's batch for it."""
    if length == config.clips.num_frames:
        return config, run_dir
    base = config.base
    if config.data.format == "charades":
        base = replace(base, batch_size=PAPER_BATCHES.get(length, base.batch_size))
    return replace(config, clips=replace(config.clips, num_frames=length), base=base), run_dir.with_name(
        f"{run_dir.name}-t{length}"
    )


def table_box(config: Config, run_dir: Path, num_seeds: int = 1, sides: Sequence[int] = ()) -> Outcome:
    """Late fusion with entropy boxes of several sizes; writes report/table-box.csv, .md and .html.

    Sizes are compared on a fifth of the training videos, held out of everything in a run of its own, <run>-box. The
    evaluation videos take no part.

    Args:
        sides: pixels of the input; none for 2/7 to 6/7 of it (the paper chose 4/7, 128 of 224).
    """
    sides = sides or tuple(round(config.clips.input_side * part / 7) for part in range(2, 7))
    skipped = ensure_prepared(config, run_dir)
    folder = run_dir.with_name(f"{run_dir.name}-box")
    config = _validation_config(config, run_dir, folder)
    skipped = max(skipped, ensure_prepared(config, folder))
    lines, notes = [], ()
    for side in sides:
        one = replace(config, saliency=replace(config.saliency, box_side=side))
        configs = seed_configs(one, folder, num_seeds)
        skipped = max(skipped, *(run_rows(seeded, folder, [BASE, ATTENTION]) for seeded in configs))
        found = read_results(configs, folder, [BASE, ATTENTION])
        difference = contrast(scored(found[ATTENTION]), scored(found[BASE]))
        line = {"box_side": side, **spread([result.facts["map"] for result in found[ATTENTION].values()])}
        lines.append(line | percent(delta_base=difference.delta, delta_low=difference.low, delta_high=difference.high))
        text = protocol(one, folder, weights_of(found[BASE]))
        notes = (text.replace(f"box {side},", "box as in the row,"), INTERVAL_NOTE)
    notes += ("Validation: a fifth of the training videos, by a hash of their ids; Base has not seen them either.",)
    columns = ("box_side", "num_seeds", "map_mean", "map_std", "delta_base", "delta_low", "delta_high")
    return _write(run_dir, "table-box", Table("Box sizes, late fusion e/e", columns, lines, notes), skipped)


def held_out(video_id: str) -> bool:
    """Whether a training video belongs to the fifth that validates; a matter of its id alone."""
    return hashlib.sha256(video_id.encode()).digest()[0] % 5 == 0


def _validation_config(config: Config, run_dir: Path, folder: Path) -> Config:
    """The config whose evaluation videos are held out of the training videos of a prepared run."""
    annotations = read_plain(run_dir / "labels.csv", run_dir / "classes.txt")
    videos = annotations.videos[annotations.videos.split == "train"].copy()
    videos["split"] = ["test" if held_out(video_id) else "train" for video_id in videos.video_id]
    actions = annotations.actions[annotations.actions.video_id.isin(videos.video_id)]
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "validation.csv", labels_csv(replace(annotations, videos=videos, actions=actions)))
    data = replace(config.data, format="plain", annotations=(str(folder / "validation.csv"),), eval_ids=())
    return replace(config, data=replace(data, classes=str(run_dir / "classes.txt")))


@dataclass(frozen=True)
class Look:
    """A way to compute saliency."""

    name: str
    method: str
    objective: str


LOOKS = (
    Look("entropy", "input_gradient", "entropy"),
    Look("cross_entropy", "input_gradient", "cross_entropy"),
    Look("max_logit", "input_gradient", "max_logit"),
    Look("softmax_entropy", "input_gradient", "softmax_entropy"),
    Look("grad_cam", "grad_cam", "entropy"),
)


def compare_saliency(config: Config, run_dir: Path, num_seeds: int = 1) -> Outcome:
    """Boxes of all LOOKS on the evaluation clips, side by side; writes report/compare-saliency.csv, .md and .html.

    Columns iou_<name>: intersection over union with the boxes of another look, mean over clips and seeds. map_mean is
    that of late fusion over the num_seeds that were trained with these boxes, by `train-fusion`.
    """
    skipped = ensure_prepared(config, run_dir)
    boxes, shares = {look: [] for look in LOOKS}, {look: [] for look in LOOKS}
    maps, weights = {look: [] for look in LOOKS}, {}
    for seeded in seed_configs(config, run_dir, num_seeds):
        train_base.run(seeded, run_dir)
        weights[seeded.seed] = load_base(Workspace(run_dir, seeded)).sha256
        for method in dict.fromkeys(look.method for look in LOOKS):
            objectives = tuple(look.objective for look in LOOKS if look.method == method)
            settings = replace(seeded.saliency, method=method, objectives=objectives)
            outcome = saliency.run(replace(seeded, saliency=settings), run_dir, use_labels=True)
            skipped = max(skipped, outcome.num_skipped)
        for look in LOOKS:
            one = replace(seeded, saliency=replace(seeded.saliency, method=look.method))
            workspace = Workspace(run_dir, one)
            base, parts = load_base(workspace), workspace.parts_of("test")
            boxes[look].append(np.concatenate([boxes_of(workspace, base, part, look.objective) for part in parts]))
            if config.data.format == "miniature":
                shares[look].append(evaluate.boxes_on_target(workspace, base, look.objective))
            path = stored_result(one, run_dir, Row("", "late", look.objective, look.objective, "source"))
            maps[look] += [read_result(path)[0]["map"]] if path else []
    lines = []
    for look in LOOKS:
        line = {"method": look.name, "oracle": look.objective == "cross_entropy"}
        line["boxes_on_target"] = float(np.mean(shares[look])) if shares[look] else None
        line |= {f"iou_{other.name}": mean_iou(boxes[look], boxes[other]) for other in LOOKS}
        lines.append(line | spread(maps[look]))
    columns = ("method", "oracle", "boxes_on_target", *(f"iou_{look.name}" for look in LOOKS))
    columns += ("num_seeds", "map_mean", "map_std")
    notes = (protocol(config, run_dir, weights), ORACLE_NOTE)
    title = "Ways to compute saliency: their boxes, and late fusion with them"
    return _write(run_dir, "compare-saliency", Table(title, columns, lines, notes), skipped)


def mean_iou(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Mean intersection over union of boxes, int (N, 4) top, left, height, width, one array a seed.

    Rows of zeros, which stand for videos that were left out, do not count.
    """
    a, b = np.concatenate(ours).astype(np.int64), np.concatenate(theirs).astype(np.int64)
    there = (a[:, 2] > 0) & (b[:, 2] > 0)
    a, b = a[there], b[there]
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = (high - low).clip(0).prod(1)
    return float(np.mean(shared / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared)))


def _write(run_dir: Path, name: str, table: Table, skipped: int) -> Outcome:
    write_csv(run_dir / "report" / f"{name}.csv", table)
    write_pages(run_dir / "report" / name, [table])
    return Outcome(run_dir / "report" / f"{name}.md", f"{len(table.lines)} lines", skipped)
