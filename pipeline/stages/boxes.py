"""Boxes from stored maps or a table, at random or in the centre. No network runs: another rule costs seconds."""

import json
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cache.plan import Part
from cache.stores.zarr_store import ZarrStore
from pipeline.config import MAPS, Policy
from pipeline.data.box_policies import find_boxes
from pipeline.data.own_boxes import OwnBoxes, OwnRow, read_own_boxes
from pipeline.errors import StageError
from pipeline.run.stores import Stores
from pipeline.run.unit_commits import Store, Unit, UnitWork
from pipeline.run.units import EVERYTHING, Share, run_units
from pipeline.workers.engines import LOCAL, Engine

log = logging.getLogger(__name__)


def run_policy(
    stores: Stores,
    policy: Policy,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    engine: Engine = LOCAL,
) -> None:
    """Fill the boxes of one policy for every part of these splits. Reads maps or the user's table, writes boxes/.

    Args:
        share: only these units.
    Raises:
        StageError: the maps are not there.
        AnnotationError: a line of the table is of no video of the run, or leaves its frames.
    """
    units, work = [], BoxWork(stores.run.path, stores.config, policy)
    for part in stores.run.parts_of(*splits):
        todo = share.units(stores.boxes(part, policy).product.todo())
        lacking = set(stores.maps(part, policy).product.todo()) & set(todo) if policy in MAPS and todo else ()
        if lacking:
            what = f"{part.name}: {len(lacking)} units have no {policy} maps; run saliency first"
            asked = stores.config.saliency.objectives
            hint = "" if policy in asked else f", with --set 'saliency.objectives={json.dumps([*asked, policy])}'"
            raise StageError(what + hint)
        units += [Unit(part.name, number) for number in todo]
    if policy == "own" and units:
        _check_own_boxes(stores, work.own_boxes)
    run_units(work, units, 1, f"boxes ({policy})", engine)


def _check_own_boxes(stores: Stores, own: OwnBoxes) -> None:
    """Refuse a table of boxes that does not fit the run; warn of clips at whose time it has none."""
    sizes, bare, total = {}, 0, 0
    for part in stores.run.parts:
        for row in range(part.num_rows):
            clip = part.clip(row)
            sizes[clip.video_id] = clip.theta.source_size
            bare += not own.at(clip, *stores.run.annotations.clip_seconds(clip, part.fps[row]))
        total += part.num_rows
    own.check_videos(sizes, stores.run.annotations.videos.video_id)
    if bare:
        log.warning("%s has no box at the time of %d of %d clips; theirs is in the middle", own.path, bare, total)


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
        """Find the boxes of every row whose video stage 1 could read."""
        (store,), rows = wanted, part.unit_rows(unit.number)
        values = {name: np.zeros((len(rows), *array.shape[1:]), array.dtype) for name, array in store.arrays.items()}
        values["saliency_share"].fill(np.nan)
        maps = self.stores.maps(part, self.policy) if self.policy in MAPS else None
        if maps:
            skipped += maps.product.checked_record(unit.number)["skipped"]
        failed = {entry["video_id"] for entry in skipped}
        done = [local for local, row in enumerate(rows) if part.video_ids[row] not in failed]
        saliency, seeds = self.config.saliency, (self.config.clips.plan_seed, self.config.seed)
        if part.split != "train":
            saliency = replace(saliency, box_jitter=0)
        evidence = self._evidence(part, maps, [rows[local] for local in done])
        for local, of_row in zip(done, evidence, strict=True):
            clip = part.clip(rows[local])
            boxes, shares = zip(*find_boxes(clip, self.policy, saliency, seeds, of_row), strict=True)
            sources = (clip.theta.to_source(box) for box in boxes)
            for name, found in (("box_input", boxes), ("box_source", sources)):
                edges = [(box.top, box.left, box.height, box.width) for box in found]
                values[name][local] = np.reshape(edges, values[name].shape[1:])
            values["saliency_share"][local] = np.reshape(shares, values["saliency_share"].shape[1:])
        return {store: values}

    def _evidence(self, part: Part, maps: ZarrStore | None, rows: list[int]) -> list[np.ndarray | list[OwnRow] | None]:
        """Return what the boxes of some rows are found in; see `find_boxes`."""
        if maps:
            return list(maps.read_rows("codes", np.array(rows, np.int64)))
        if self.policy != "own":
            return [None] * len(rows)
        clips = [(part.clip(row), part.fps[row]) for row in rows]
        times = (self.stores.run.annotations.clip_seconds(clip, fps) for clip, fps in clips)
        return [self.own_boxes.at(clip, *time) for (clip, _), time in zip(clips, times, strict=True)]

    @cached_property
    def own_boxes(self) -> OwnBoxes:
        """The table of the policy "own"."""
        return read_own_boxes(Path(self.config.saliency.own_boxes))
