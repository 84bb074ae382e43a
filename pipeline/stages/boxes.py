"""Boxes from stored maps, at random or in the centre. No network runs, so another box size costs seconds."""

import json
from dataclasses import dataclass

import numpy as np

from cache.plan import Part
from pipeline.config import OBJECTIVES, Policy
from pipeline.data.box_policies import find_box
from pipeline.errors import StageError
from pipeline.run.stores import Stores
from pipeline.run.unit_commits import Store, Unit, UnitWork
from pipeline.run.units import EVERYTHING, Share, run_units
from pipeline.workers.engines import LOCAL, Engine


def run_policy(
    stores: Stores,
    policy: Policy,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    engine: Engine = LOCAL,
) -> None:
    """Fill the boxes of one policy for every part of these splits. Reads maps (for the objectives), writes boxes/.

    Args:
        share: only these units.
    Raises:
        StageError: the maps are not there.
    """
    units = []
    for part in stores.run.parts_of(*splits):
        todo = share.units(stores.boxes(part, policy).product.todo())
        lacking = set(stores.maps(part, policy).product.todo()) & set(todo) if policy in OBJECTIVES and todo else ()
        if lacking:
            what = f"{part.name}: {len(lacking)} units have no {policy} maps; run saliency first"
            asked = stores.config.saliency.objectives
            hint = "" if policy in asked else f", with --set 'saliency.objectives={json.dumps([*asked, policy])}'"
            raise StageError(what + hint)
        units += [Unit(part.name, number) for number in todo]
    run_units(BoxWork(stores.run.path, stores.config, policy), units, 1, f"boxes ({policy})", engine)


@dataclass(frozen=True)
class BoxWork(UnitWork):
    """Finds the boxes of a unit. Decodes nothing."""

    policy: Policy

    def do(self, unit: Unit, wait: bool = False, crashed: str = "") -> int | None:
        """Do a unit; see `UnitWork.do`. A worker that died did not die of a video, so none is skipped."""
        return super().do(unit, wait)

    def stores_of(self, part: Part) -> list[Store]:
        """Return the store of the policy's boxes."""
        return [self.stores.boxes(part, self.policy)]

    def compute(self, part: Part, unit: Unit, wanted: list[Store], skipped: list[dict]) -> dict[Store, object]:
        """Find the box of every row whose video stage 1 could read."""
        rows = part.unit_rows(unit.number)
        box_input = np.zeros((len(rows), 4), np.int32)
        box_source = np.zeros((len(rows), 4), np.int32)
        share = np.full(len(rows), np.nan, np.float32)
        maps = self.stores.maps(part, self.policy) if self.policy in OBJECTIVES else None
        if maps:
            skipped += maps.product.checked_record(unit.number)["skipped"]
        failed = {entry["video_id"] for entry in skipped}
        done = [local for local, row in enumerate(rows) if part.video_ids[row] not in failed]
        codes = maps.read_rows("codes", np.array([rows[local] for local in done])) if maps else [None] * len(done)
        side, seeds = self.config.saliency.box_side, (self.config.clips.plan_seed, self.config.seed)
        for local, row_codes in zip(done, codes, strict=True):
            clip = part.clip(rows[local])
            box, share[local] = find_box(clip, self.policy, side, seeds, row_codes)
            box_input[local] = (box.top, box.left, box.height, box.width)
            box = clip.theta.to_source(box)
            box_source[local] = (box.top, box.left, box.height, box.width)
        (store,) = wanted
        return {store: {"box_input": box_input, "box_source": box_source, "saliency_share": share}}
