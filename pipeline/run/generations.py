"""Caches of a network that is no longer Base: a small run folder beside the model, on which stages 1 and 2 run as ever.

A generation holds the rows of the plan that somebody will ask for, the weights that look, and the maps, boxes and
focused volumes made with them. Base's logits and the context volumes stay in the run; nothing here touches them.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cache.commit import write_file
from cache.plan_files import write_part
from pipeline.config import Policy
from pipeline.run.folder import Workspace
from pipeline.run.networks import read_trained, write_trained


def evaluation_of(workspace: Workspace, model: Path, policy: Policy) -> Workspace:
    """The generation of the evaluation clips of a model whose training boxes came from the current network."""
    return opened(workspace, model / "generation-eval", policy)


def opened(workspace: Workspace, folder: Path, policy: Policy) -> Workspace:
    """A generation as a run folder, made or not; its only objective is the policy."""
    config = workspace.config
    return Workspace(folder, replace(config, saliency=replace(config.saliency, objectives=(policy,))))


def started(generation: Workspace) -> bool:
    """Whether it has the weights that look."""
    return (generation.base_folder / "base.json").exists()


def start(
    workspace: Workspace, generation: Workspace, split: str, augmentations: set[int], weights: Mapping[str, Tensor]
) -> None:
    """Write what the stages read: plan, labels, and the weights in Base's place. The same call again changes nothing.

    Args:
        workspace: of the run.
        split: "train" or "test".
        augmentations: which stored augmentations of training videos; of evaluation videos all clips are taken.
        weights: state dict of the network that looks. A generation that has been started keeps those it has.
    """
    number = 0
    for part in workspace.parts_of(split):
        rows = part.rows if split == "test" else part.rows[part.rows.aug_index.isin(augmentations)]
        if len(rows):
            rows, count = rows.reset_index(drop=True), len(rows) // part.num_videos
            name = f"part-{number:03d}-{split}"
            write_part(generation.path, replace(part, name=name, rows=rows, rows_per_video=count))
            number += 1
    for name in ("labels.csv", "classes.txt"):
        write_file(generation.path / name, (workspace.path / name).read_bytes())
    if started(generation):
        return
    about = read_trained(workspace.base_folder / "base.json")
    write_trained(generation.base_folder / "base.json", weights, about)


def numbered(model: Path, number: int) -> Path:
    """Folder of a training generation."""
    return model / f"generation-{number:03d}"


def drop_before(model: Path, number: int) -> None:
    """Delete the training generations with smaller numbers.

    Each gets another name first, so that no half of one is ever taken for a whole.
    """
    for folder in model.glob("generation-[0-9]*"):
        if folder.name < numbered(model, number).name:
            folder.rename(model / f".{folder.name}.tmp")
    for leftover in model.glob(".generation-*.tmp"):
        shutil.rmtree(leftover)
