"""Boxes of all saliency objectives and of Grad-CAM, side by side."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from cache.geometry import mean_iou
from pipeline.config import OBJECTIVES, Config
from pipeline.recipes.experiments import Row, stored_result
from pipeline.recipes.study import ORACLE_NOTE, run_study, spread
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.outcome import Outcome
from pipeline.run.stores import boxes_of, open_run
from pipeline.stages import evaluate, saliency, train_base

# name in the table -> saliency.method, and the objective of saliency.objectives
KINDS = {name: ("input_gradient", name) for name in OBJECTIVES} | {"grad_cam": ("grad_cam", "entropy")}


def compare_saliency(config: Config, run_dir: Path, num_seeds: int = 1) -> Outcome:
    """Find boxes of all KINDS on the evaluation clips; write report/compare-saliency.csv, .md and .html.

    Column iou_<name> is the intersection over union with the boxes of another kind, mean over clips and seeds. map_mean
    is that of late fusion, over the seeds that `train-fusion` has trained with these boxes.
    """
    boxes, shares, kinds = defaultdict(list), defaultdict(list), dict(KINDS)
    if config.data.task == "single_label":
        del kinds["softmax_entropy"]  # of many labels; that of the softmax is the entropy

    def run_seed(config: Config, run_dir: Path) -> tuple[dict[str, Path | None], int]:
        train_base.run(config, run_dir)
        paths, skipped = {}, 0
        for method in dict.fromkeys(method for method, _ in kinds.values()):
            objectives = {name: objective for name, (other, objective) in kinds.items() if other == method}
            settings = replace(config.saliency, method=method, objectives=tuple(objectives.values()))
            one = replace(config, saliency=settings)
            skipped = max(skipped, saliency.run(one, run_dir, use_labels=True).num_skipped)
            stores = open_run(run_dir, one)
            for name, objective in objectives.items():
                parts = stores.run.parts_of("test")
                boxes[name].append(
                    np.concatenate(
                        [boxes_of(stores, part, objective).reshape(part.num_rows, -1, 4)[:, 0] for part in parts]
                    )
                )
                if config.data.format == "miniature":
                    shares[name].append(evaluate.boxes_on_target(stores, objective))
                paths[name] = stored_result(one, run_dir, Row(name, "late", objective, objective, "source"))
        return paths, skipped

    study = run_study(config, run_dir, num_seeds, run_seed)
    lines = []
    for name, (_, objective) in kinds.items():
        line = {"method": name, "oracle": objective == "cross_entropy"}
        line["boxes_on_target"] = float(np.mean(shares[name])) if shares[name] else None
        line |= {f"iou_{other}": mean_iou(boxes[name], boxes[other]) for other in kinds}
        lines.append(line | spread(study.results[name], study.metric))
    title = "Ways to compute saliency: their boxes, and late fusion with them"
    table = Table(title, lines, (study.note, ORACLE_NOTE))
    return write_tables(run_dir, {"compare-saliency": table}, study.num_skipped)
