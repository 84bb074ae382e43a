"""Results of a run as tables need them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import StageError
from pipeline.metrics import RESAMPLES, Scored, resampled_maps, resamples
from pipeline.recipes.experiments import Row, stored_result
from pipeline.run.folder import Workspace
from pipeline.run.results import protocol, read_result

INTERVAL_NOTE = (
    f"Intervals: 95 %, paired bootstrap over evaluation videos, {RESAMPLES} resamples, averaged over seeds inside "
    "each; classes without positives are left out."
)
ORACLE_NOTE = (
    "oracle = true: the boxes of the evaluation videos come from the gradient of a loss that holds their labels, so "
    "the number is no prediction and compares with nothing that has not seen them."
)


@dataclass(frozen=True)
class Result:
    """One result file, and its scores on resampled videos."""

    facts: dict
    scored: Scored


Results = dict[Row, dict[int, Result]]  # by row and seed


def read_results(configs: Sequence[Config], run_dir: Path, rows: Sequence[Row]) -> Results:
    """Every stored result of the rows, by seed, scored on the same resamples of the evaluation videos.

    Raises:
        StageError: two results are of different videos.
    """
    found: Results = {row: {} for row in rows}
    known: dict[Path, Result] = {}  # Base stands in two rows
    times = targets = first = ids = None
    for config in configs:
        for row in rows:
            path = stored_result(config, run_dir, row)
            if path and path not in known:
                facts, videos, scores = read_result(path)
                if ids is None:
                    first, ids, times = path, videos, resamples(len(videos))
                    targets = Workspace(run_dir, config).annotations.video_targets(ids)
                if videos != ids:
                    raise StageError(f"{path} and {first} hold scores of different videos, they cannot be compared")
                known[path] = Result(facts, Scored(facts["map"], resampled_maps(scores, targets, times)))
            if path:
                found[row][config.seed] = known[path]
    return found


def scored(by_seed: dict[int, Result]) -> dict[int, Scored]:
    """What `contrast` compares."""
    return {seed: result.scored for seed, result in by_seed.items()}


def footnote(config: Config, run_dir: Path, base_weights: dict[int, str]) -> str:
    """What stands under a table: how clips are made and scored, and whose weights (sha256 by seed)."""
    weights = ", ".join(f"seed {seed} {sha256[:12]}" for seed, sha256 in base_weights.items())
    return (
        f"mAP in per cent; {protocol(Workspace(run_dir, config))}. Always the last epoch's weights, nothing "
        f"is chosen on evaluation videos. Base: {weights}."
    )


def weights_of(by_seed: dict[int, Result]) -> dict[int, str]:
    """sha256 of the weights behind results, by seed."""
    return {seed: result.facts["weights"] for seed, result in by_seed.items()}
