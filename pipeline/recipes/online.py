"""Fusion models trained on the fly, as the command `train-fusion --online` trains them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.config import Config, Focus, Fusion, Pixels, SaliencyFrom
from pipeline.recipes.refresh import evaluation_boxes
from pipeline.run.folder import Workspace
from pipeline.run.outcome import Outcome
from pipeline.stages import train_online
from pipeline.workers.rank import is_first_process


def run(
    config: Config,
    run_dir: Path,
    fusions: Iterable[Fusion],
    focus: Focus,
    pixels: Pixels,
    saliency_from: SaliencyFrom,
) -> list[Outcome]:
    """Train a model for each fusion; see `train_online.run` for the arguments and what it writes.

    Models that learned from their own saliency are evaluated with it: the first process then makes the caches of the
    evaluation clips with their final weights, after all trainings, so that no other process waits for it.

    Returns:
        one a fusion; it counts the evaluation videos left out.
    """
    outcomes = [train_online.run(config, run_dir, fusion, focus, pixels, saliency_from) for fusion in fusions]
    if saliency_from == "base" or not is_first_process():
        return outcomes
    workspace = Workspace(run_dir, config)
    return [replace(outcome, num_skipped=evaluation_boxes(workspace, outcome.path)) for outcome in outcomes]
