"""Results of a run with their intervals, their differences to Base, and the same by class."""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from cache.errors import DamagedError
from cache.layout import RESULTS
from cache.sealed import read_record, read_recorded_file
from cache.table_files import read_csv
from pipeline.data.annotations import Annotations
from pipeline.errors import StageError
from pipeline.metrics import (
    LEVELS,
    MAP,
    mean_average_precision,
    mean_over_classes,
    resampled_precisions,
    resampled_top1,
    resamples,
)
from pipeline.run.costs import cost_cells, read_costs
from pipeline.run.folder import check_classes
from pipeline.run.results import main_metric, read_result, same_map

EPOCH = ("epoch", "learning_rate", "loss", "seconds", "waiting_share")  # columns of metrics.csv that the page shows


@dataclass(frozen=True)
class Interval:
    """A number with the 2.5 % and 97.5 % points of its bootstrap; NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True, eq=False)
class Result:
    """One result file.

    Attributes:
        facts: its JSON, and `superseded` of results.csv.
        base_weights: SHA-256 of the Base behind it, "" where its model is gone.
        ids: its V videos.
        scores: float64 (V, C), by which they are ranked.
        targets: 0 or 1, (V, C), by the labels of the run.
    """

    facts: dict
    base_weights: str
    ids: tuple[str, ...]
    scores: np.ndarray
    targets: np.ndarray

    @property
    def name(self) -> str:
        return self.facts["experiment"]

    @property
    def is_base(self) -> bool:
        return self.facts["fusion"] == "none"

    @property
    def probabilities(self) -> np.ndarray:
        """Scores in [0, 1], float64 (V, C): the sigmoid of logits (log-odds), which older results do not hold."""
        is_logits = self.facts.get("scores") == "logits"
        return np.exp(-np.logaddexp(0, -self.scores)) if is_logits else self.scores

    @cached_property
    def by_labels(self) -> MAP:
        """mAP by the labels of the run, which may have been corrected since the result was scored."""
        return mean_average_precision(self.scores, self.targets)

    @property
    def metric(self) -> str:
        """By what it is compared, "map" or "top1"; see `main_metric`."""
        return main_metric(self.facts)

    @property
    def stored(self) -> float:
        """Its metric in [0, 1] as it was scored; NaN for the mAP where no class had a positive."""
        return float("nan") if self.facts[self.metric] is None else self.facts[self.metric]

    @property
    def stored_map(self) -> float:
        """mAP in [0, 1] as it was scored; NaN where no class had a positive."""
        return float("nan") if self.facts["map"] is None else self.facts["map"]

    @property
    def fits_labels(self) -> bool:
        """Whether it was scored with the labels that the run has now."""
        return same_map(self.by_labels.map, self.facts["map"])

    @cached_property
    def precisions(self) -> np.ndarray:
        """AP of every class on the resamples that all results of V videos share: float64 (C, R)."""
        return resampled_precisions(self.scores, self.targets, resamples(len(self.ids)))

    @cached_property
    def resampled(self) -> np.ndarray:
        """Its metric on the resamples of `precisions`: float64 (R,)."""
        if self.metric == "top1":
            return resampled_top1(self.scores, self.targets, resamples(len(self.ids)))
        return mean_over_classes(self.precisions)

    @property
    def has_intervals(self) -> bool:
        """Whether a bootstrap makes sense: several videos, and the labels that the result was scored with."""
        return len(self.ids) > 1 and self.fits_labels

    def map(self) -> Interval:
        """mAP in [0, 1]."""
        return _interval(self.stored_map, mean_over_classes(self.precisions) if self.has_intervals else None)

    def value(self) -> Interval:
        """Its metric in [0, 1]."""
        return _interval(self.stored, self.resampled if self.has_intervals else None)


@dataclass(frozen=True, eq=False)
class ClassGain:
    """One class in two results: number of positive videos, AP in [0, 1], and its paired difference."""

    name: str
    positives: int
    base: float
    ap: float
    gain: Interval


def read_results(run_dir: Path, annotations: Annotations) -> list[Result]:
    """All result files of the run, Base first, then by falling mAP, or top-1 accuracy of single labels."""
    weights = {}
    for path in sorted((run_dir / "models").glob("*/model.json")):
        model = read_record(path, "weights", "base")
        weights[model["weights"]] = model["base"]
    found, why, costs = [], {}, read_costs(run_dir)
    if (run_dir / "results.csv").exists():
        table = read_csv(run_dir / "results.csv", ("key",))
        why = dict(zip(table.key, table.superseded, strict=True)) if "superseded" in table else {}
    for path in sorted(run_dir.glob(RESULTS)):
        facts, ids, scores = read_result(path)
        facts |= {"cost": cost_cells(costs.get(facts["key"]))}
        table = read_recorded_file(path, f"{path.stem}.per_class.csv")
        names = pd.read_csv(BytesIO(table), dtype=str, keep_default_na=False)["class"].tolist()
        check_classes(names, annotations.classes, f"{path} has scores of")
        base = facts["weights"] if facts["fusion"] == "none" else weights.get(facts["weights"], "")
        facts["superseded"] = why.get(facts["key"], "")
        found.append(Result(facts, base, tuple(ids), scores, annotations.video_targets(ids)))
    return sorted(found, key=lambda one: (not one.is_base, one.facts["seed"], -(one.facts[one.metric] or 0), one.name))


def base_of(result: Result, results: list[Result]) -> Result | None:
    """The result of the Base that a model was trained with, on the same videos and labels; None if there is none."""
    for base in results:
        same = base.base_weights == result.base_weights and base.ids == result.ids
        if base.is_base and same and base.fits_labels and result.fits_labels and base is not result:
            return base
    return None


def gain(result: Result, base: Result) -> Interval:
    """Difference in the metric of both, in [-1, 1], with a paired bootstrap over the videos."""
    spread = result.resampled - base.resampled if result.has_intervals else None
    return _interval(result.stored - base.stored, spread)


def class_gains(result: Result, base: Result, classes: list[str]) -> list[ClassGain]:
    """Gains of all classes that have a positive video, the largest first."""
    gains = []
    for number in np.flatnonzero(result.targets.any(axis=0)).tolist():
        before, after = base.by_labels.per_class[number], result.by_labels.per_class[number]
        spread = result.precisions[number] - base.precisions[number] if result.has_intervals else None
        positives = int(result.targets[:, number].sum())
        gains.append(ClassGain(classes[number], positives, before, after, _interval(after - before, spread)))
    return sorted(gains, key=lambda one: -one.gain.value)


def best(results: list[Result], experiment: str | None = None) -> Result | None:
    """The fusion result that the page is about: the one asked for, or the highest, no oracle and not superseded.

    Raises:
        StageError: no result has this name or key; lists those there are.
    """
    if experiment is not None:
        fitting = [one for one in results if experiment in (one.name, one.facts["key"]) and not one.is_base]
        if not fitting:
            names = ", ".join(dict.fromkeys(one.name for one in results if not one.is_base))
            raise StageError(f"experiment {experiment!r} has no result; there are: {names or 'none'}")
    else:
        fitting = [one for one in results if not (one.is_base or one.facts["oracle"] or one.facts.get("superseded"))]
    with_base = [one for one in fitting if base_of(one, results)]
    return max(with_base or fitting, key=lambda one: (len(one.ids), one.facts[one.metric] or 0), default=None)


def video_gains(result: Result, base: Result) -> dict[str, float]:
    """By video id: how much the mean probability of its labels rises from Base to `result`, less that of the others.

    The mean over no class is 0, as for a video without labels, or with all of them.
    """
    change, labels = result.probabilities - base.probabilities, result.targets.astype(bool)
    of_labels, of_others = (_mean(change, chosen) for chosen in (labels, ~labels))
    return dict(zip(result.ids, (of_labels - of_others).tolist(), strict=True))


def read_metrics(run_dir: Path) -> dict[str, pd.DataFrame]:
    """metrics.csv of every model that has one, a row an epoch, by folder name; Base first. Raises as `read_csv`."""
    folders = {path.parent for name in ("metrics.csv", "training.json") for path in run_dir.glob(f"models/*/{name}")}
    tables = {folder.name: read_csv(folder / "metrics.csv", EPOCH, EPOCH) for folder in folders}
    return {name: tables[name] for name in sorted(tables, key=lambda name: (not name.startswith("base"), name))}


def read_gate(run_dir: Path, metric: str) -> list[tuple[float, float]]:
    """Points of table-gate.csv: share of the clips looked at twice and mean metric, both in per cent; [] without it."""
    path, column = run_dir / "report" / "table-gate.csv", f"{metric}_mean"
    if not path.is_file():
        return []
    try:
        table = pd.read_csv(path)[["share_looked", column]].astype(float)
    except (ValueError, KeyError) as error:
        raise DamagedError(f"{path}: {error}; `table-gate` writes it anew") from error
    return list(table.itertuples(index=False, name=None))


def _mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean of the chosen values of each row, 0 where none is."""
    return np.where(chosen, values, 0).sum(1) / np.maximum(chosen.sum(1), 1)


def _interval(value: float, spread: np.ndarray | None) -> Interval:
    if spread is None or np.isnan(spread).all():
        return Interval(float(value))
    low, high = np.nanquantile(spread, LEVELS)
    return Interval(float(value), float(low), float(high))
