"""What the cache costs in accuracy: on the fly, from 1, 4 or as many stored augmentations as epochs, refreshed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cache.commit import write_file
from pipeline.config import Config, Fusion
from pipeline.errors import StageError
from pipeline.metrics import Scored, contrast, resampled_maps, resamples
from pipeline.recipes import refresh
from pipeline.recipes.experiments import ensure_prepared, seed_configs
from pipeline.recipes.scored_results import INTERVAL_NOTE, footnote
from pipeline.recipes.table_files import Table, percent, spread, write_csv, write_pages
from pipeline.run.folder import Workspace
from pipeline.run.networks import load_base
from pipeline.run.outcome import Outcome
from pipeline.run.results import read_result
from pipeline.stages import crops, evaluate, saliency, train_base, train_fusion, train_online

Train = Callable[[Config, Path], Path]  # to the model's folder


@dataclass(frozen=True)
class Variant:
    """One way to come by the training boxes and pixels.

    Attributes:
        aug_seeds: S of the plan; training on the fly draws a new augmentation every epoch, whatever the plan has.
        codec: of the volumes, at evaluation too.
        cached: whether the run's own caches of the training split are read.
    """

    name: str
    aug_seeds: int
    codec: str
    cached: bool
    train: Train


def variants(config: Config, fusion: Fusion, every: int) -> list[Variant]:
    """The rows of the table; the first one is what all others are compared with."""
    epochs = config.fusion.epochs

    def online(looker: str) -> Train:
        return lambda one, run: train_online.run(one, run, fusion, looker=looker).path

    def cached(one: Config, run: Path) -> Path:
        return train_fusion.run(one, run, fusion).path

    def refreshed(one: Config, run: Path) -> Path:
        return refresh.run(one, run, fusion, every=every).path

    counts = tuple(dict.fromkeys((epochs, min(4, epochs), 1)))
    return [
        Variant("online, Base looks", epochs, "png", False, online("base")),
        Variant("cached, lossless", epochs, "png", True, cached),
        *(Variant("cached, jpeg", count, "jpeg", True, cached) for count in counts),
        Variant("online, current network looks", epochs, "png", False, online("current")),
        Variant(f"refreshed every {every} epochs, jpeg", min(4, epochs), "jpeg", True, refreshed),
    ]


def table_cache(
    config: Config, run_dir: Path, num_seeds: int = 1, fusion: Fusion = "late", every: int | None = None
) -> Outcome:
    """Entropy boxes, source pixels, one fusion, every variant; writes report/table-cache.csv, .md and .html.

    Each number of stored augmentations S has a run of its own beside this one, <run>-s<S>, with the same Base.

    Args:
        every: epochs of a refresh; none for a quarter of them.
    """
    every = every or max(1, config.fusion.epochs // 4)
    config = replace(config, saliency=replace(config.saliency, objectives=("entropy",)))
    skipped = ensure_prepared(config, run_dir)
    configs = seed_configs(config, run_dir, num_seeds)
    lines, weights, ids, times = [], {}, [], None
    first: dict[int, Scored] = {}
    for one in variants(config, fusion, every):
        results: dict[int, tuple[dict, Scored]] = {}
        for seeded in configs:
            path, left_out = _result(seeded, run_dir, one)
            skipped = max(skipped, left_out)
            facts, videos, scores = read_result(path)
            if times is None:
                ids, times = videos, resamples(len(videos))
            if videos != ids:
                raise StageError(f"{path}: scores of other videos than in the first row")
            targets = Workspace(run_dir, config).annotations.video_targets(ids)
            results[seeded.seed] = facts, Scored(facts["map"], resampled_maps(scores, targets, times))
            weights[seeded.seed] = load_base(Workspace(run_dir, seeded)).sha256
        mine = {seed: scored for seed, (_, scored) in results.items()}
        first = first or mine
        line = {"variant": one.name, "aug_seeds": one.aug_seeds, "codec": one.codec}
        line |= spread([facts["map"] for facts, _ in results.values()])
        if mine is not first:
            found = contrast(mine, first)
            line |= percent(delta_online=found.delta, delta_low=found.low, delta_high=found.high)
        lines.append(line)
    columns = ("variant", "aug_seeds", "codec", "num_seeds", "map_mean", "map_std")
    columns += ("delta_online", "delta_low", "delta_high")
    text = footnote(config, run_dir, weights).replace(f", S = {config.clips.aug_seeds} stored augmentations", "")
    notes = (text, INTERVAL_NOTE, "delta_online: to the first row. aug_seeds: S of the plan; online, one an epoch.")
    table = Table(f"What the cache costs: {fusion} fusion, entropy boxes, source pixels", columns, lines, notes)
    write_csv(run_dir / "report" / "table-cache.csv", table)
    write_pages(run_dir / "report" / "table-cache", [table])
    return Outcome(run_dir / "report" / "table-cache.md", f"{len(lines)} lines", skipped)


def _result(config: Config, run_dir: Path, variant: Variant) -> tuple[Path, int]:
    """Run what a variant still needs for the seed of the config; its result file, and videos left out."""
    clips, stored = config.clips, replace(config.crops, codec=variant.codec)
    one = replace(config, clips=replace(clips, aug_seeds=variant.aug_seeds), crops=stored)
    count = variant.aug_seeds
    folder = run_dir if count == clips.aug_seeds else run_dir.with_name(f"{run_dir.name}-s{count}")
    skipped = ensure_prepared(one, folder)
    train_base.run(config, run_dir)
    _share_base(Workspace(run_dir, config).base_folder, Workspace(folder, one).base_folder)
    # training on the fly reads no cache, but evaluation does
    splits = ("train", "test") if variant.cached else ("test",)
    for stage in (saliency.run, partial(crops.run, policies=("entropy",))):
        skipped = max(skipped, stage(one, folder, splits=splits).num_skipped)
    model = variant.train(one, folder)
    if not variant.cached:
        refresh.evaluation_if_current(Workspace(folder, one), model)
    return evaluate.run_model(one, folder, model), skipped


def _share_base(source: Path, target: Path) -> None:
    """The same recipe, hence the same name, in a run with another number of augmentations; base.json comes last."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("weights.pt", "base.json"):
        if not (target / name).exists():
            write_file(target / name, (source / name).read_bytes())
