"""Boxes from stored maps, at random or in the centre. No network runs, so another box size costs seconds."""

from pathlib import Path

import numpy as np

from pipeline.config import OBJECTIVES, Config, Policy
from pipeline.data.box_policies import find_box
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights, load_base
from pipeline.run.stores import open_boxes, open_maps
from pipeline.run.units import EVERYTHING, Share, open_workspace, run_units
from pipeline.workers.engines import HERE, Engine


def run_policy(
    workspace: Workspace,
    base: BaseWeights,
    policy: Policy,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    engine: Engine = HERE,
) -> None:
    """Fill the boxes of one policy for every part of these splits. Reads maps (for the objectives), writes boxes/.

    Args:
        share: only these units.
        engine: who works.
    Raises:
        StageError: the maps are not there.
    """
    jobs = []
    for part in (part for part in workspace.parts if part.split in splits):
        todo = share.units(open_boxes(workspace, part, base.sha256, policy).product.todo())
        if policy in OBJECTIVES and todo:
            lacking = open_maps(workspace, part, base.sha256, policy).product.todo()
            if lacking := set(lacking) & set(todo):
                raise StageError(f"{part.name}: {len(lacking)} units have no {policy} maps; run saliency first")
        jobs += [(part.name, unit, policy) for unit in todo]
    run_units(_do_unit, workspace, jobs, 1, f"boxes ({policy})", engine)


def _do_unit(
    run_dir: Path, config: Config, part_name: str, unit: int, policy: Policy, wait: bool = False, crashed: str = ""
) -> int | None:
    """Find and commit the boxes of one unit; rows done, None as `run_units` says. Decodes nothing, so cannot crash."""
    workspace = open_workspace(run_dir, config)
    base = load_base(workspace)
    part = next(part for part in workspace.parts if part.name == part_name)
    store = open_boxes(workspace, part, base.sha256, policy)
    with store.product.lock(unit, wait) as mine:
        if not mine:
            return 0 if store.product.is_done(unit) else None
        rows = part.unit_rows(unit)
        box_input = np.zeros((len(rows), 4), np.int32)
        box_source = np.zeros((len(rows), 4), np.int32)
        share = np.full(len(rows), np.nan, np.float32)
        maps = open_maps(workspace, part, base.sha256, policy) if policy in OBJECTIVES else None
        skipped = maps.product.checked_record(unit)["skipped"] if maps else []
        failed = {entry["video_id"] for entry in skipped}
        done = [local for local, row in enumerate(rows) if part.video_ids[row] not in failed]
        codes = maps.read_rows("codes", np.array([rows[local] for local in done])) if maps else [None] * len(done)
        for local, row_codes in zip(done, codes, strict=True):
            clip = part.clip(rows[local])
            box, share[local] = find_box(workspace.config, clip, policy, row_codes)
            box_input[local] = (box.top, box.left, box.height, box.width)
            box = clip.theta.to_source(box)
            box_source[local] = (box.top, box.left, box.height, box.width)
        values = {"box_input": box_input, "box_source": box_source, "saliency_share": share}
        store.write_unit(unit, values, skipped)
    return len(rows)
