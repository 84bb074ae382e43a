"""What all tables share: run what is missing for every seed, and compare the stored results."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.config import Config
from pipeline.data.annotations import Annotations
from pipeline.errors import StageError
from pipeline.metrics import RESAMPLES, Contrast, Scored, contrast, resampled_maps, resampled_top1, resamples
from pipeline.recipes.experiments import Row, ensure_prepared, run_rows, seed_configs, stored_result
from pipeline.recipes.tables import Cell
from pipeline.run.costs import cost_cells, read_costs
from pipeline.run.folder import open_folder
from pipeline.run.networks import load_base
from pipeline.run.results import main_metric, protocol, read_result

METRICS = {"map": "mAP", "top1": "Top-1 accuracy"}
INTERVAL_NOTE = (
    f"Intervals: 95 %, paired bootstrap over evaluation videos, {RESAMPLES} resamples, averaged over seeds inside "
    "each; classes without positives are left out."
)
ORACLE_NOTE = (
    "oracle = true: the boxes of the evaluation videos come from the gradient of a loss that holds their labels, so "
    "the number is no prediction and compares with nothing that has not seen them."
)
COST_NOTE = "gflop, seconds: what one video costs, where `evaluate --cost` has measured it."

_resamples = lru_cache(maxsize=1)(resamples)


@dataclass(frozen=True)
class Result:
    """One result file: its JSON, its metric on all videos and on resamples of them, and the ids of the videos."""

    facts: dict
    scored: Scored
    ids: tuple[str, ...] = ()


BySeed = dict[int, Result]
# From the config of one seed and the run folder: the result file of every variant (None if it was not run), and the
# number of videos left out.
RunSeed = Callable[[Config, Path], tuple[Mapping[Hashable, Path | None], int]]


@dataclass(frozen=True)
class Study:
    """Results of one config.

    Attributes:
        results: by variant (a row of Table 2, a way to compute saliency, ...) and by seed.
        note: for the table: protocol, and the weights of each seed's Base.
        num_skipped: the largest number of videos that a stage left out.
        metric: what is compared, "map", or "top1" of single labels.
    """

    results: dict[Hashable, BySeed]
    note: str
    num_skipped: int
    metric: str = "map"


def run_study(config: Config, run_dir: Path, num_seeds: int, run_seed: RunSeed, share_base: bool = False) -> Study:
    """Prepare the run, do what is missing for every seed, and read all results.

    Args:
        num_seeds: seeds config.seed, config.seed + 1, ...
        share_base: all seeds use the Base of the first.
    """
    results, num_skipped = {}, ensure_prepared(config, run_dir)
    run = open_folder(run_dir, config)
    configs = seed_configs(config, run_dir, num_seeds, share_base)
    for one in configs:
        paths, left_out = run_seed(one, run_dir)
        num_skipped = max(num_skipped, left_out)
        read = {path: read_scored(path, run.annotations) for path in {*paths.values()} if path}
        for variant, path in paths.items():
            results.setdefault(variant, {}).update({one.seed: read[path]} if path else {})
    weights = ", ".join(f"seed {one.seed} {load_base(run, one).sha256[:12]}" for one in configs)
    metric = metric_of(config)
    note = f"{METRICS[metric]} in per cent; {protocol(config)}. Always the last epoch's weights, nothing "
    note += f"is chosen on evaluation videos. Base: {weights}."
    return Study(results, note, num_skipped, metric)


def metric_of(config: Config) -> str:
    """Return what results of a config are compared by; see `main_metric`."""
    return "top1" if config.data.task == "single_label" else "map"


def of_rows(rows: Sequence[Row], shown: Sequence[Row] = ()) -> RunSeed:
    """Run rows of Table 2. The results are those of the rows in `shown`, () for `rows`, also of earlier runs."""

    def run_seed(config: Config, run_dir: Path) -> tuple[dict[Row, Path | None], int]:
        skipped = run_rows(config, run_dir, rows)
        return {row: stored_result(config, run_dir, row) for row in shown or rows}, skipped

    return run_seed


def read_scored(path: Path, annotations: Annotations) -> Result:
    """Read a result file; results of the same videos are scored on the same resamples of them."""
    facts, ids, scores = read_result(path)
    facts |= {"cost": read_costs(path.parents[1]).get(facts["key"])}
    metric, targets = main_metric(facts), annotations.video_targets(ids)
    return Result(facts, Scored(facts[metric], resampled(metric, scores, targets)), tuple(ids))


def resampled(metric: str, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute a metric of METRICS on the resamples that all results of V videos share, float64 (R,)."""
    compute = resampled_top1 if metric == "top1" else resampled_maps
    return compute(scores, targets, _resamples(len(scores)))


def compare(a: BySeed, b: BySeed) -> Contrast:
    """Compare variant a with variant b over the seeds that both have; see `metrics.contrast`.

    Raises:
        StageError: two results are of different videos.
    """
    results = [*a.values(), *b.values()]
    for other in results[1:]:
        if other.ids != results[0].ids:
            names = " and ".join(f"results/{one.facts['key']}.json" for one in (results[0], other))
            raise StageError(f"{names} hold scores of different videos, they cannot be compared")
    return contrast(*({seed: one.scored for seed, one in by_seed.items()} for by_seed in (a, b)))


def difference(found: Contrast, *columns: str) -> dict[str, Cell]:
    """Three cells: a difference and both ends of its interval, in per cent; None for NaN."""
    values = (found.delta, found.low, found.high)
    return {name: None if np.isnan(value) else 100 * value for name, value in zip(columns, values, strict=True)}


def spread(by_seed: BySeed, metric: str = "map") -> dict[str, Cell]:
    """Cells num_seeds, map_mean, map_std (over n - 1), or top1_...: in per cent; None where there are too few seeds."""
    values = [one.facts[metric] for one in by_seed.values()]
    return {
        "num_seeds": len(values),
        f"{metric}_mean": 100 * float(np.mean(values)) if values else None,
        f"{metric}_std": 100 * float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def cost(by_seed: BySeed) -> dict[str, Cell]:
    """Cells gflop and seconds, of one video: means over seeds; None where they were not measured for all of them."""
    cells, names = [cost_cells(one.facts.get("cost")) for one in by_seed.values()], ("gflop", "seconds")
    values = {name: [one.get(name, "") for one in cells] for name in names}
    return {name: float(np.mean(found)) if found and "" not in found else None for name, found in values.items()}
