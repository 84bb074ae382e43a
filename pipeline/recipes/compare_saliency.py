"""Boxes of all objectives and of Grad-CAM, side by side."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.geometry import mean_iou
from pipeline.config import Config
from pipeline.recipes.experiments import Row, ensure_prepared, seed_configs, stored_result
from pipeline.recipes.scored_results import ORACLE_NOTE, footnote
from pipeline.recipes.table_files import Table, _write, spread
from pipeline.run.folder import Workspace
from pipeline.run.networks import load_base
from pipeline.run.outcome import Outcome
from pipeline.run.results import read_result
from pipeline.run.stores import boxes_of
from pipeline.stages import evaluate, saliency, train_base


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
    notes = (footnote(config, run_dir, weights), ORACLE_NOTE)
    title = "Ways to compute saliency: their boxes, and late fusion with them"
    return _write(run_dir, "compare-saliency", Table(title, columns, lines, notes), skipped)
