"""The gated look: a second look only at clips of which Base is unsure; accuracy against the share looked at."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.fusion import video_scores
from pipeline.config import Config, Fusion, pooling_of
from pipeline.metrics import Scored, mean_average_precision, top_k_hits
from pipeline.recipes.experiments import ATTENTION, BASE, Row, model_of
from pipeline.recipes.study import (
    COST_NOTE,
    INTERVAL_NOTE,
    BySeed,
    Result,
    compare,
    difference,
    metric_of,
    of_rows,
    resampled,
    run_study,
    spread,
)
from pipeline.recipes.tables import Cell, Table, write_tables
from pipeline.run.costs import gated_gflop
from pipeline.run.fusion_models import model_folder, read_model
from pipeline.run.gate import entropies, threshold_of
from pipeline.run.outcome import Outcome
from pipeline.run.stores import Stores, open_run
from pipeline.stages import train_fusion
from pipeline.training.clip_scores import scores_by_video

SHARES = tuple(number / 10 for number in range(11))
NOTE = (
    "share_wanted: of training clips whose entropy is above the threshold, which is found on them alone; share_looked: "
    "of the evaluation clips. Base has been trained on the former, and is less sure of the latter. Clips below the "
    "threshold keep Base's scores. A threshold is that of the first seed."
)


def table_gate(
    config: Config, run_dir: Path, num_seeds: int = 1, fusion: Fusion = "late", shares: Sequence[float] = SHARES
) -> Outcome:
    """Look twice at a share of the clips, those with the highest entropy of Base; write report/table-gate.*.

    Trains and evaluates nothing but entropy boxes from the source, where that is missing. A curve takes one pass of the
    fusion network over the stored evaluation clips, however many shares.

    Args:
        shares: wanted, in [0, 1].
    """
    row, points = replace(ATTENTION, fusion=fusion), {share: {} for share in shares}

    def run_seed(one: Config, run_dir: Path) -> tuple[dict[Row, Path | None], int]:
        paths, skipped = of_rows([BASE, row])(one, run_dir)
        for share, found in _curve(one, run_dir, row, shares):
            points[share][one.seed] = found
        return paths, skipped

    study = run_study(config, run_dir, num_seeds, run_seed)
    full, base = study.results[row], study.results[BASE]
    lines = [_line(share, by_seed, full, base, study.metric) for share, by_seed in points.items()]
    table = Table(f"Gated look, {fusion} fusion e/e", lines, (study.note, NOTE, INTERVAL_NOTE, COST_NOTE))
    return write_tables(run_dir, {"table-gate": table}, study.num_skipped)


def _line(share: float, by_seed: BySeed, full: BySeed, base: BySeed, metric: str) -> dict[str, Cell]:
    facts = [one.facts for one in by_seed.values()]
    line = {"share_wanted": 100 * share, "share_looked": 100 * float(np.mean([one["looked"] for one in facts]))}
    line |= {"entropy_above": facts[0]["threshold"] if np.isfinite(facts[0]["threshold"]) else None}
    line |= spread(by_seed, metric)
    line |= difference(compare(by_seed, full), "delta_full", "full_low", "full_high")
    line |= difference(compare(by_seed, base), "delta_base", "base_low", "base_high")
    costs = [one.facts["cost"] for one in full.values()]
    gflop = [gated_gflop(cost, one["looked"]) for cost, one in zip(costs, facts, strict=True) if cost]
    return line | {"gflop": float(np.mean(gflop)) if len(gflop) == len(facts) else None}


def _curve(config: Config, run_dir: Path, row: Row, shares: Sequence[float]):
    """Yield each share with the result of looking at it."""
    stores = open_run(run_dir, config)
    model = read_model(model_folder(stores.run, train_fusion.model_facts(stores, model_of(row))))
    ids = {video_id for part in stores.run.parts_of("test") for video_id in part.rows.video_id}
    second, _ = scores_by_video(stores, model, row.boxes_eval, ids)
    first, _ = scores_by_video(stores, None, "none", ids)
    entropy = entropies(stores, "test")
    ids = [video_id for video_id in stores.run.annotations.videos.video_id if video_id in second]
    training = np.concatenate(list(entropies(stores, "train").values()))
    for share in shares:
        threshold = threshold_of(training, share)
        looked = {video_id: entropy[video_id] > threshold for video_id in ids}
        clips = {one: np.where(looked[one][:, None], second[one], first[one]) for one in ids}
        facts = {"threshold": threshold, "looked": float(np.concatenate(list(looked.values())).mean())}
        yield share, _scored(config, stores, clips, facts)


def _scored(config: Config, stores: Stores, clips: dict[str, np.ndarray], facts: dict) -> Result:
    """Score videos by the logits of their clips, (clips, C) each."""
    metric, annotations = metric_of(config), stores.run.annotations
    how = config.data.task, pooling_of(config)
    scores = np.stack([video_scores(torch.from_numpy(one), *how).numpy() for one in clips.values()])
    targets = annotations.video_targets(list(clips))
    if metric == "top1":
        value = float(top_k_hits(scores, targets).mean())
    else:
        value = mean_average_precision(scores, targets).map
    facts |= {"key": "table-gate", metric: value}
    return Result(facts, Scored(value, resampled(metric, scores, targets)), tuple(clips))
