"""Boxes of all saliency objectives and of Grad-CAM, side by side."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.geometry import mean_iou
from pipeline.config import Config
from pipeline.recipes.experiments import Row, stored_result
from pipeline.recipes.study import ORACLE_NOTE, run_study, spread
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.outcome import Outcome
from pipeline.run.stores import boxes_of, open_run
from pipeline.stages import evaluate, saliency, train_base


@dataclass(frozen=True)
class SaliencyKind:
    """One way to compute saliency: its name in the table, and the settings of the config."""

    name: str
    method: str
    objective: str


KINDS = (
    SaliencyKind("entropy", "input_gradient", "entropy"),
    SaliencyKind("cross_entropy", "input_gradient", "cross_entropy"),
    SaliencyKind("max_logit", "input_gradient", "max_logit"),
    SaliencyKind("softmax_entropy", "input_gradient", "softmax_entropy"),
    SaliencyKind("grad_cam", "grad_cam", "entropy"),
)


def compare_saliency(config: Config, run_dir: Path, num_seeds: int = 1) -> Outcome:
    """Find boxes of all KINDS on the evaluation clips; write report/compare-saliency.csv, .md and .html.

    Column iou_<name> is the intersection over union with the boxes of another kind, mean over clips and seeds. map_mean
    is that of late fusion over the seeds that were trained with these boxes, by `train-fusion`.
    """
    boxes, shares = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}

    def run_seed(seeded: Config, run_dir: Path) -> tuple[dict[SaliencyKind, Path | None], int]:
        train_base.run(seeded, run_dir)
        paths, skipped = {}, 0
        for method in dict.fromkeys(kind.method for kind in KINDS):
            kinds = [kind for kind in KINDS if kind.method == method]
            one = replace(seeded, saliency=replace(seeded.saliency, method=method))
            all_at_once = replace(one.saliency, objectives=tuple(kind.objective for kind in kinds))
            outcome = saliency.run(replace(one, saliency=all_at_once), run_dir, use_labels=True)
            skipped = max(skipped, outcome.num_skipped)
            stores = open_run(run_dir, one)
            parts = stores.run.parts_of("test")
            for kind in kinds:
                boxes[kind].append(np.concatenate([boxes_of(stores, part, kind.objective) for part in parts]))
                if config.data.format == "miniature":
                    shares[kind].append(evaluate.boxes_on_target(stores, kind.objective))
                row = Row("", "late", kind.objective, kind.objective, "source")
                paths[kind] = stored_result(one, run_dir, row)
        return paths, skipped

    study = run_study(config, run_dir, num_seeds, run_seed)
    lines = []
    for kind in KINDS:
        line = {"method": kind.name, "oracle": kind.objective == "cross_entropy"}
        line["boxes_on_target"] = float(np.mean(shares[kind])) if shares[kind] else None
        line |= {f"iou_{other.name}": mean_iou(boxes[kind], boxes[other]) for other in KINDS}
        lines.append(line | spread(study.results[kind]))
    title = "Ways to compute saliency: their boxes, and late fusion with them"
    table = Table(title, lines, (study.note, ORACLE_NOTE))
    return write_tables(run_dir, {"compare-saliency": table}, study.num_skipped)
