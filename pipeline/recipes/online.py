"""Fusion models trained on the fly, as the command `train-fusion --online` trains them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.config import Config, Focus, Fusion, Pixels, SaliencyFrom
from pipeline.recipes.refresh import evaluation_boxes
from pipeline.run.folder import holds_run
from pipeline.run.outcome import Outcome
from pipeline.run.stores import open_run
from pipeline.stages import train_online
from pipeline.workers.rank import is_first_process


@holds_run
def run(
    config: Config,
    run_dir: Path,
    fusions: Iterable[Fusion],
    focus: Focus,
    pixels: Pixels,
    saliency_from: SaliencyFrom,
) -> list[Outcome]:
    """Train a model for each fusion; see `train_online.run` for the arguments and what it writes.

    With saliency of the "current" network, the first process then makes the caches of the evaluation clips with the
    final weights: after all trainings, so that no other process waits.

    Returns:
        one outcome for each fusion, with the number of evaluation videos left out.
    """
    outcomes = [train_online.run(config, run_dir, fusion, focus, pixels, saliency_from) for fusion in fusions]
    if saliency_from == "base" or not is_first_process():
        return outcomes
    stores = open_run(run_dir, config)
    return [replace(outcome, num_skipped=evaluation_boxes(stores, outcome.path)) for outcome in outcomes]
