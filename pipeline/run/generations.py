"""Generations: small run folders beside a model, where stages 1 and 2 make caches with other weights than Base's.

A generation holds some rows of the plan, weights, and the maps, boxes and focused volumes made with them. Base's logits
and the context volumes stay in the run.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from cache.layout import GENERATION
from cache.plan_files import write_part
from cache.sealed import write_record
from cache.table_files import read_table
from pipeline.config import Config, Policy
from pipeline.run.folder import RunFolder, label_tables, open_folder
from pipeline.run.networks import base_folder, read_trained, write_trained
from pipeline.run.stores import Stores, open_stores


@dataclass(frozen=True)
class Generation:
    """A generation, whether its folder exists or not."""

    run: RunFolder
    config: Config  # with one objective alone, the policy of its boxes

    @property
    def started(self) -> bool:
        """Whether it has its weights."""
        return (base_folder(self.run, self.config) / "base.json").exists()

    def stores(self) -> Stores:
        """Open its stores."""
        return open_stores(self.run, self.config)


def generation_in(folder: Path, config: Config, policy: Policy) -> Generation:
    """Return the generation in a folder, which need not be there."""
    config = replace(config, saliency=replace(config.saliency, objectives=(policy,)))
    return Generation(open_folder(folder, config), config)


def evaluation_of(model: Path, config: Config, policy: Policy) -> Generation:
    """Return the generation with which a model is evaluated whose training boxes came from the current network."""
    return generation_in(model / "generation-eval", config, policy)


def start(
    run: RunFolder, generation: Generation, split: str, augmentations: set[int], weights: Mapping[str, Tensor]
) -> None:
    """Write what the stages read: plan, labels, and the weights in Base's place. The same call again changes nothing.

    Args:
        run: to which the generation belongs.
        augmentations: which ones of training videos; of evaluation videos all clips are taken.
        weights: state dict of the network whose saliency is wanted; a started generation keeps its own.
    """
    number, folder = 0, generation.run.path
    for part in run.parts_of(split):
        rows = part.rows if split == "test" else part.rows[part.rows.aug_index.isin(augmentations)]
        if len(rows):
            rows, count = rows.reset_index(drop=True), len(rows) // part.num_videos
            name = f"part-{number:03d}-{split}"
            write_part(folder, replace(part, name=name, rows=rows, rows_per_video=count))
            number += 1
    tables = {name: read_table(run.path / name).encode() for name in label_tables(run.path)}
    write_record(folder / "tables.json", {}, tables)
    if not generation.started:
        facts = read_trained(base_folder(run, generation.config) / "base.json")
        write_trained(base_folder(generation.run, generation.config) / "base.json", weights, facts)


def numbered(model: Path, number: int) -> Path:
    """Return the folder of a training generation."""
    return model / f"generation-{number:03d}"


def drop_before(model: Path, number: int) -> None:
    """Delete the training generations with smaller numbers; rename each first, so that half a one is never used."""
    for folder in model.glob("generation-*"):
        if GENERATION.fullmatch(folder.name) and int(folder.name.partition("-")[2]) < number:
            folder.rename(model / f".{folder.name}.tmp")
    for leftover in model.glob(".generation-*.tmp"):
        if GENERATION.fullmatch(leftover.name[1:-4]):
            shutil.rmtree(leftover)
