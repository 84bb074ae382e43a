"""`predict --gate`: from which entropy of Base's scores on a window is looked at twice."""

import math
from pathlib import Path

import numpy as np

from pipeline.config_file import load
from pipeline.errors import StageError
from pipeline.predict.load import read_settings
from pipeline.run.gate import entropies, threshold_of
from pipeline.run.stores import open_run

ABOVE = "--look-if-entropy-above"


def look_above(
    run_dir: Path,
    experiment: str | None = None,
    overrides: tuple[str, ...] = (),
    share: float | None = None,
    entropy: float | None = None,
) -> float | None:
    """Return the entropy, nats, above which a window is looked at twice; None for all windows.

    Args:
        run_dir, experiment, overrides: as `load.load_model` takes them.
        share: wanted of the run's training clips, in (0, 1].
        entropy: the entropy itself.
    Raises:
        StageError: both are given, the experiment never looks twice, or there are no training clips to learn from.
    """
    if share is None and entropy is None:
        return None
    if share is not None and entropy is not None:
        raise StageError(f"--gate finds the entropy that {ABOVE} says; give one of them")
    if read_settings(run_dir, experiment, overrides).fusion == "none":
        raise StageError("the experiment is Base alone, which never looks twice; --experiment names another")
    if entropy is not None:
        if not math.isfinite(entropy):
            raise StageError(f"{ABOVE} {entropy}: expected a number of nats")
        return entropy
    if not (run_dir / "config.toml").is_file():
        raise StageError(f"{run_dir}: an exported model has no training clips to learn --gate from; say {ABOVE}")
    stores = open_run(run_dir, load(str(run_dir / "config.toml"), overrides, run_dir))
    return None if share == 1 else threshold_of(np.concatenate(list(entropies(stores, "train").values())), share)
