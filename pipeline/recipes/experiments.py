"""The rows of the paper's Table 2, and what the stages have to do for them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import MAPS, Config, Focus, Fusion, Pixels, Policy
from pipeline.run.folder import open_folder
from pipeline.run.fusion_models import Variant, model_folder
from pipeline.run.looker_weights import TEACHER
from pipeline.run.networks import base_folder
from pipeline.run.results import rebuild
from pipeline.run.stores import open_stores
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion, train_looker


@dataclass(frozen=True)
class Row:
    """One experiment of the table.

    Attributes:
        name: only printed; the other fields say what is trained and evaluated.
        fusion: "late" or "concat"; Base has none and is printed in both columns.
        boxes_train, boxes_eval: where the second volume is cut; None for Base, which has no second volume.
        pixels: the second volume is cut from the "source" video, or from the "input" and enlarged.
        paper_map: mAP in per cent, as the paper has it.
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


PAPER = (  # name, boxes_train, boxes_eval, pixels, mAP of temporal concatenation and of late fusion
    ("base", None, None, "input", 31.6, 31.6),
    ("repeat", "repeat", "repeat", "input", 31.7, 31.6),
    ("random", "random", "random", "source", 31.4, 30.6),
    ("center", "center", "center", "source", 31.6, 31.0),
    ("ce/ce", "cross_entropy", "cross_entropy", "source", 33.2, 32.9),
    ("ce/ce-up", "cross_entropy", "cross_entropy", "input", 33.2, 32.7),
    ("ce/e", "cross_entropy", "entropy", "source", 33.2, 33.0),
    ("ce/e-up", "cross_entropy", "entropy", "input", 33.1, 32.8),
    ("e/e", "entropy", "entropy", "source", 33.3, 33.1),
)
TABLE_2 = tuple(
    Row(name, fusion, train, test, pixels, paper_map)
    for name, train, test, pixels, *maps in PAPER
    for fusion, paper_map in zip(("concat", "late"), maps, strict=True)
)
# not in the paper: the boxes of e/e, enlarged from the input; run where it is asked for by name
UPSCALED = tuple(Row("e/e-up", fusion, "entropy", "entropy", "input") for fusion in ("concat", "late"))


@dataclass(frozen=True)
class Work:
    """What the stages have to do for some rows, everything once.

    Attributes:
        objectives: of saliency, and other maps.
        crops: for each kind of pixels the policies of its boxes; () where only context volumes are needed.
        models: to be trained; rows that differ only in their evaluation boxes share one.
    """

    objectives: tuple[str, ...]
    crops: tuple[tuple[Pixels, tuple[Policy, ...]], ...]
    models: tuple[Variant, ...]


def plan(rows: Iterable[Row]) -> Work:
    """List the work of some rows for one seed; nothing runs."""
    fused = [row for row in rows if row.boxes_train is not None]
    policies: dict[Pixels, dict[Policy, None]] = {}
    for row in fused:
        wanted = policies.setdefault(row.pixels, {})
        wanted |= {name: None for name in (row.boxes_train, row.boxes_eval) if name != "repeat"}
    return Work(
        tuple(name for name in MAPS if any(name in names for names in policies.values())),
        tuple((pixels, tuple(names)) for pixels, names in policies.items()),
        tuple({model_of(row): None for row in fused}),
    )


def model_of(row: Row) -> Variant:
    """The fusion model that a row evaluates."""
    return Variant(row.fusion, row.boxes_train, row.pixels)


def ensure_prepared(config: Config, run_dir: Path) -> int:
    """Run `prepare` unless it has finished in this folder; return how many videos it has left out now."""
    finished = (run_dir / "config.toml").exists()  # the last file that `prepare` writes
    return 0 if finished else prepare.run(config, run_dir).num_skipped


def seed_configs(config: Config, run_dir: Path, num_seeds: int, share_base: bool = False) -> list[Config]:
    """Return the configs of config.seed, config.seed + 1, ...: same data and plan, but own Base, maps and crops.

    Args:
        share_base: train the Base of the first seed now and give it to the others, untrained; they share its maps and
            crops too.
    """
    configs = [replace(config, seed=config.seed + number) for number in range(num_seeds)]
    if share_base:
        weights = train_base.run(config, run_dir).path / "weights.pt"
        shared = replace(config.base, init=str(weights), new_head=False, inflate=False, epochs=0)
        configs[1:] = [replace(one, base=shared) for one in configs[1:]]
    return configs


def run_rows(config: Config, run_dir: Path, rows: Sequence[Row]) -> int:
    """Run every stage that the rows still need for the seed of the config, oracle rows included.

    Returns:
        the largest number of videos that a stage left out.
    """
    missing = [row for row in rows if stored_result(config, run_dir, row) is None]
    if not missing:
        return 0
    work = plan(missing)
    outcomes = [train_base.run(config, run_dir)]
    config = replace(config, saliency=replace(config.saliency, objectives=work.objectives))
    if "looker" in work.objectives:
        taught = replace(config, saliency=replace(config.saliency, objectives=(TEACHER,)))
        outcomes += [saliency.run(taught, run_dir, splits=("train",)), train_looker.run(config, run_dir)]
    outcomes.append(saliency.run(config, run_dir, use_labels="cross_entropy" in work.objectives))
    outcomes += [crops.run(config, run_dir, policies, pixels) for pixels, policies in work.crops]
    folders = {model: train_fusion.run(config, run_dir, *model).path for model in work.models}
    for row in missing:
        evaluate.run_model(config, run_dir, folders.get(model_of(row)), row.boxes_eval, use_labels=row.oracle)
    rebuild(open_folder(run_dir, config))
    return max(outcome.num_skipped for outcome in outcomes)


def stored_result(config: Config, run_dir: Path, row: Row) -> Path | None:
    """The result file of a row for the seed of the config; None if the row has not been run."""
    run, folder = open_folder(run_dir, config), None
    if not (base_folder(run, config) / "base.json").exists():
        return None
    if row.boxes_train is not None:
        stores = open_stores(run, config)
        if "looker" in (row.boxes_train, row.boxes_eval) and not (stores.looker_folder / "looker.json").exists():
            return None
        folder = model_folder(run, train_fusion.model_facts(stores, model_of(row)))
        if not (folder / "model.json").exists():
            return None
    path = evaluate.result_path(config, run_dir, folder, row.boxes_eval)
    return path if path.exists() else None
