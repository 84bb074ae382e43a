"""The paper's Table 2 as data: what each row trains and evaluates on, what rows share, running what is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import OBJECTIVES, Config, Focus, Fusion, Pixels, Policy
from pipeline.data.miniature import generate
from pipeline.run.folder import Workspace
from pipeline.run.networks import load_base, model_folder
from pipeline.run.results import rebuild
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion


@dataclass(frozen=True)
class Row:
    """One experiment. What happens follows from these fields; the name is only printed.

    Attributes:
        name: of the row in the table.
        fusion: how the two volumes meet; for Base only the column it is printed in.
        boxes_train, boxes_eval: of the second volume; None for Base, which has one volume.
        pixels: the second volume is cut from the "source" video or enlarged from the "input" (upscaled).
        paper_map: mAP in per cent, Table 2 of the paper.
    """

    name: str
    fusion: Fusion
    boxes_train: Focus | None
    boxes_eval: Focus | None
    pixels: Pixels
    paper_map: float | None = None

    @property
    def oracle(self) -> bool:
        """Whether the evaluation boxes are made from the evaluation labels."""
        return self.boxes_eval == "cross_entropy"


BASE = Row("base", "late", None, None, "input")
ATTENTION = Row("e/e", "late", "entropy", "entropy", "source")


def _both(name: str, train: Focus | None, test: Focus | None, pixels: Pixels, concat: float, late: float) -> tuple:
    """A line of the paper's table: the same boxes and pixels in both fusions."""
    return Row(name, "concat", train, test, pixels, concat), Row(name, "late", train, test, pixels, late)


TABLE_2: tuple[Row, ...] = (
    *_both("base", None, None, "input", 31.6, 31.6),
    *_both("repeat", "repeat", "repeat", "input", 31.7, 31.6),
    *_both("random", "random", "random", "source", 31.4, 30.6),
    *_both("center", "center", "center", "source", 31.6, 31.0),
    *_both("ce/ce", "cross_entropy", "cross_entropy", "source", 33.2, 32.9),
    *_both("ce/ce-up", "cross_entropy", "cross_entropy", "input", 33.2, 32.7),
    *_both("ce/e", "cross_entropy", "entropy", "source", 33.2, 33.0),
    *_both("ce/e-up", "cross_entropy", "entropy", "input", 33.1, 32.8),
    *_both("e/e", "entropy", "entropy", "source", 33.3, 33.1),
)

Model = tuple[Fusion, Focus, Pixels]


@dataclass(frozen=True)
class Work:
    """What some rows need of the stages, everything once.

    Attributes:
        objectives: all of one forward pass.
        crops: policies for each kind of pixels; no policy means the context volumes alone.
        models: rows that differ only in their evaluation boxes share one.
    """

    objectives: tuple[str, ...]
    crops: tuple[tuple[Pixels, tuple[Policy, ...]], ...]
    models: tuple[Model, ...]


def plan(rows: Iterable[Row]) -> Work:
    """The work of some rows of one seed; pure data."""
    looking = [row for row in rows if row.boxes_train is not None]
    boxes = {name for row in looking for name in (row.boxes_train, row.boxes_eval)}
    policies: dict[Pixels, dict[Policy, None]] = {}
    for row in looking:
        wanted = policies.setdefault(row.pixels, {})
        wanted.update({name: None for name in (row.boxes_train, row.boxes_eval) if name != "repeat"})
    return Work(
        tuple(name for name in OBJECTIVES if name in boxes),
        tuple((pixels, tuple(names)) for pixels, names in policies.items()),
        tuple({model_of(row): None for row in looking}),
    )


def model_of(row: Row) -> Model:
    """Arguments of `train_fusion.run`: all that the training of a row depends on."""
    return row.fusion, row.boxes_train, row.pixels


def ensure_prepared(config: Config, run_dir: Path) -> int:
    """Run `prepare` unless it has finished in this folder; videos left out by it now."""
    if config.data.format == "miniature":
        generate.generate(config.data, config.workers)
    if (run_dir / "config.toml").exists():  # the last file that it writes
        return 0
    return prepare.run(config, run_dir).num_skipped


def seed_configs(config: Config, run_dir: Path, num_seeds: int, share_base: bool = False) -> list[Config]:
    """The config of each seed, from config.seed on: same data and plan; Base, maps and crops are the seed's own.

    Args:
        share_base: train the Base of the first seed, which all seeds then take as it is. Maps and crops are keyed by
            its weights, so they are shared too.
    """
    configs = [replace(config, seed=config.seed + number) for number in range(num_seeds)]
    if share_base:
        weights = train_base.run(config, run_dir).path / "weights.pt"
        shared = replace(config.base, init=str(weights), new_head=False, inflate=False, epochs=0)
        configs[1:] = [replace(one, base=shared) for one in configs[1:]]
    return configs


def run_rows(config: Config, run_dir: Path, rows: Sequence[Row]) -> int:
    """Run every stage that the rows still need for the seed of the config; what is done is not touched.

    Oracle rows look at evaluation labels without being asked: they are declared as such, and marked in every table.

    Returns:
        how many videos a stage had to leave out.
    """
    missing = [row for row in rows if stored_result(config, run_dir, row) is None]
    if not missing:
        return 0
    work = plan(missing)
    outcomes = [train_base.run(config, run_dir)]
    config = replace(config, saliency=replace(config.saliency, objectives=work.objectives))
    outcomes.append(saliency.run(config, run_dir, use_labels="cross_entropy" in work.objectives))
    outcomes += [crops.run(config, run_dir, policies, pixels) for pixels, policies in work.crops]
    folders = {model: train_fusion.run(config, run_dir, *model).path for model in work.models}
    for row in missing:
        boxes = None if row.boxes_eval == "repeat" else row.boxes_eval
        evaluate.run_model(config, run_dir, folders.get(model_of(row)), boxes, use_labels=row.oracle)
    rebuild(run_dir)
    return max(outcome.num_skipped for outcome in outcomes)


def stored_result(config: Config, run_dir: Path, row: Row) -> Path | None:
    """The result file of a row for the seed of the config; None where it has not been run."""
    workspace, folder = Workspace(run_dir, config), None
    if not (workspace.base_folder / "base.json").exists():
        return None
    if row.boxes_train is not None:
        facts = train_fusion.model_facts(workspace, load_base(workspace), *model_of(row))
        folder = model_folder(workspace, facts)
        if not (folder / "model.json").exists():
            return None
    path = evaluate.result_path(workspace, folder, None if row.boxes_eval == "repeat" else row.boxes_eval)
    return path if path.exists() else None
