"""All stages in a row, as the command `demo` runs them."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.config import FUSIONS, Config
from pipeline.run.outcome import Outcome
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion


def run(config: Config, run_dir: Path) -> Iterator[Outcome]:
    """Run every stage with entropy boxes and source pixels; yield what each has done, `evaluate` last."""
    yield prepare.run(config, run_dir)
    yield train_base.run(config, run_dir)
    yield saliency.run(config, run_dir)
    yield crops.run(config, run_dir, ("entropy",))
    for fusion in FUSIONS:
        yield train_fusion.run(config, run_dir, fusion)
    yield evaluate.run(config, run_dir)
