"""What the caches cost in accuracy: training on the fly, from few or many stored augmentations, and refreshed."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cache.commit import write_file
from pipeline.config import Config, Fusion, SaliencyFrom
from pipeline.recipes import refresh
from pipeline.recipes.experiments import ensure_prepared
from pipeline.recipes.study import INTERVAL_NOTE, compare, difference, run_study, spread
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.folder import open_folder
from pipeline.run.networks import base_folder
from pipeline.run.outcome import Outcome
from pipeline.run.stores import open_run
from pipeline.stages import crops, evaluate, saliency, train_base, train_fusion, train_online


@dataclass(frozen=True)
class Variant:
    """One way to get the training boxes and pixels, from caches unless `online` or `refresh_every` says otherwise.

    Attributes:
        aug_seeds: S of the plan; training on the fly draws a new augmentation every epoch all the same.
        codec: of the volumes, at evaluation too.
        online: train on the fly, with the saliency of "base" or of the "current" network.
        refresh_every: epochs after which the caches are made anew.
    """

    name: str
    aug_seeds: int
    codec: str
    online: SaliencyFrom | None = None
    refresh_every: int | None = None


def variants(epochs: int, refresh_every: int) -> list[Variant]:
    """The rows of the table; all are compared with the first."""
    counts = dict.fromkeys((epochs, min(4, epochs), 1))
    refreshed = f"refreshed every {refresh_every} epochs, jpeg"
    return [
        Variant("online, Base looks", epochs, "png", online="base"),
        Variant("cached, lossless", epochs, "png"),
        *(Variant("cached, jpeg", count, "jpeg") for count in counts),
        Variant("online, current network looks", epochs, "png", online="current"),
        Variant(refreshed, min(4, epochs), "jpeg", refresh_every=refresh_every),
    ]


def table_cache(
    config: Config, run_dir: Path, num_seeds: int = 1, fusion: Fusion = "late", every: int | None = None
) -> Outcome:
    """Train one fusion, entropy boxes and source pixels, in all variants; write report/table-cache.csv, .md and .html.

    Each number of stored augmentations S has a run of its own beside this one, <run>-s<S>, with the same Base.

    Args:
        every: epochs after which caches are refreshed; None for a quarter of all epochs.
    """
    every = every or max(1, config.fusion.epochs // 4)
    config = replace(config, saliency=replace(config.saliency, objectives=("entropy",)))
    skipped = ensure_prepared(config, run_dir)
    studies = {}
    for variant in variants(config.fusion.epochs, every):
        clips, stored = replace(config.clips, aug_seeds=variant.aug_seeds), replace(config.crops, codec=variant.codec)
        folder = run_dir if clips == config.clips else run_dir.with_name(f"{run_dir.name}-s{clips.aug_seeds}")
        run_seed = partial(_run_seed, config, run_dir, variant, fusion)
        studies[variant] = run_study(replace(config, clips=clips, crops=stored), folder, num_seeds, run_seed)
    first = next(iter(studies))
    lines = []
    for variant, study in studies.items():
        by_seed = study.results[variant]
        line = {"variant": variant.name, "aug_seeds": variant.aug_seeds, "codec": variant.codec}
        line |= spread(by_seed, study.metric)
        theirs = {} if variant is first else studies[first].results[first]  # the first row has no difference to itself
        lines.append(line | difference(compare(by_seed, theirs), "delta_online", "delta_low", "delta_high"))
    columns_note = "delta_online: to the first row. aug_seeds: S of the plan; online, one an epoch."
    notes = (studies[first].note, INTERVAL_NOTE, columns_note)
    table = Table(f"What the cache costs: {fusion} fusion, entropy boxes, source pixels", lines, notes)
    return write_tables(run_dir, {"table-cache": table}, max(skipped, *(one.num_skipped for one in studies.values())))


def _run_seed(
    main: Config, main_dir: Path, variant: Variant, fusion: Fusion, config: Config, run_dir: Path
) -> tuple[dict[Variant, Path], int]:
    """Run what a variant still needs for the seed of `config`, with the Base that is trained in main_dir."""
    main = replace(main, seed=config.seed)
    train_base.run(main, main_dir)
    runs = ((main, main_dir), (config, run_dir))
    _copy_base(*(base_folder(open_folder(folder, one), one) for one, folder in runs))
    splits = ("test",) if variant.online else ("train", "test")  # evaluation always reads the caches
    outcomes = [saliency.run(config, run_dir, splits=splits), crops.run(config, run_dir, ("entropy",), splits=splits)]
    if variant.online:
        model = train_online.run(config, run_dir, fusion, saliency_from=variant.online).path
    elif variant.refresh_every:
        model = refresh.run(config, run_dir, fusion, every=variant.refresh_every).path
    else:
        model = train_fusion.run(config, run_dir, fusion).path
    if variant.online == "current":
        refresh.evaluation_boxes(open_run(run_dir, config), model)
    skipped = max(outcome.num_skipped for outcome in outcomes)
    return {variant: evaluate.run_model(config, run_dir, model)}, skipped


def _copy_base(source: Path, target: Path) -> None:
    """Copy Base to a run with another number of augmentations, where its folder has the same name."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("weights.pt", "base.json"):  # base.json comes last: with it Base counts as trained
        if not (target / name).exists():
            write_file(target / name, (source / name).read_bytes())
