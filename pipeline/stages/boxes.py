"""Boxes from stored maps or a table, at random or in the centre: another rule costs seconds.

No network runs, unless `saliency.looks` asks for looks at what the boxes show.
"""

import json
import logging
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from cache.geometry import Box
from cache.plan import Part
from pipeline.box_settings import num_looks, num_segments
from pipeline.config import MAPS, Policy
from pipeline.data.box_policies import find_boxes
from pipeline.data.clips import cut_rows, video_rows
from pipeline.data.own_boxes import OwnBoxes, read_own_boxes
from pipeline.errors import StageError, VideoError
from pipeline.run.closer_look import focus_maps, frozen_base, look_closer
from pipeline.run.stores import Stores, looks_of
from pipeline.run.unit_commits import Store, Unit, UnitWork, skip
from pipeline.run.units import EVERYTHING, Share, gather_records, run_units
from pipeline.workers.device import cpu_threads, pick_device
from pipeline.workers.engines import LOCAL, Engine

log = logging.getLogger(__name__)


def run_policy(
    stores: Stores,
    policy: Policy,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    engine: Engine = LOCAL,
) -> str:
    """Fill the boxes of one policy for every part of these splits. Reads maps or the user's table, writes boxes/.

    Further looks at a clip read Base's weights and the videos.

    Args:
        share: only these units.
    Returns:
        with `saliency.looks`, how many clips stopped at each, in words; else "".
    Raises:
        StageError: the maps are not there.
        AnnotationError: a line of the table is of no video of the run, or leaves its frames.
    """
    units, work = [], BoxWork(stores.run.path, stores.config, policy, opened=stores if stores.to_write else None)
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
    several = num_looks(policy, stores.config.saliency) > 1
    workers = len(engine.devices) or 1 if several else 1
    run_units(work, units, workers, f"boxes ({policy})", engine, on_device=several)
    gather_records(stores.boxes(part, policy) for part in stores.run.parts_of(*splits) if units)
    if not several:
        return ""
    taken = [looks_of(stores, part, policy) for part in stores.run.parts_of(*splits)]
    return f"{policy} boxes by look, from 1: " + ", ".join(map(str, np.bincount(np.concatenate(taken))[1:]))


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
    codes: np.ndarray | None = field(default=None, kw_only=True, metadata={"travels": False})  # of the unit, if at hand

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
            skipped += maps.product.skipped(unit.number)
        failed = {entry["video_id"] for entry in skipped}
        done = [local for local, row in enumerate(rows) if part.video_ids[row] not in failed]
        saliency, seeds = self.config.saliency, (self.config.clips.plan_seed, self.config.seed)
        if part.split != "train":
            saliency = replace(saliency, box_jitter=0)
        if not maps:
            evidence = self._evidence(part, [rows[local] for local in done])
        elif self.codes is None:
            evidence = list(maps.read_unit(unit.number, "codes").values())
        else:
            evidence = list(self.codes[done])
        closer = None
        if num_looks(self.policy, saliency) > 1:
            look = partial(self._look, part, unit, skipped)
            closer = look_closer(dict(zip((rows[local] for local in done), evidence, strict=True)), saliency, look)
        for local, of_row in zip(done, evidence, strict=True):
            clip = part.clip(rows[local])
            if closer is None:
                boxes, shares = zip(*find_boxes(clip, self.policy, saliency, seeds, of_row), strict=True)
            elif one := closer.get(rows[local]):
                boxes, shares, values["looks"][local] = [one.box], [one.share], one.looks
            else:  # its video cannot be read any more
                continue
            sources = (clip.theta.to_source(box) for box in boxes)
            for name, found in (("box_input", boxes), ("box_source", sources)):
                edges = [(box.top, box.left, box.height, box.width) for box in found]
                values[name][local] = np.reshape(edges, values[name].shape[1:])
            values["saliency_share"][local] = np.reshape(shares, values["saliency_share"].shape[1:])
        return {store: values}

    def _look(self, part: Part, unit: Unit, skipped: list[dict], boxes: dict[int, Box]) -> dict[int, np.ndarray]:
        """Return the maps of the focused volumes of some rows, given their boxes; see `look_closer`."""
        saliency, found = self.config.saliency, {}
        device = pick_device(self.config.device)
        network = frozen_base(self.stores.base_weights, device)
        for video_id, of_video in video_rows(part, unit.number):
            wanted = {row: boxes[row] for row in of_video if row in boxes}
            try:
                volumes = cut_rows(part, wanted, self.videos) if wanted else {}
            except VideoError as error:
                skipped.append(skip(video_id, error))
                continue
            how = saliency, self.policy, self.config.data.task
            with cpu_threads(device, saliency.threads):
                maps = focus_maps(network, list(volumes.values()), *how)
            found |= dict(zip(volumes, maps, strict=True))
        return found

    def _evidence(self, part: Part, rows: list[int]) -> list[list | None]:
        """Return what the boxes of some rows are found in without maps; see `find_boxes`."""
        if self.policy != "own":
            return [None] * len(rows)
        clips = [(part.clip(row), part.fps[row]) for row in rows]
        times = (self.stores.run.annotations.clip_seconds(clip, fps) for clip, fps in clips)
        segments = num_segments(self.policy, self.config.saliency)
        return [self.own_boxes.evidence(clip, *time, segments) for (clip, _), time in zip(clips, times, strict=True)]

    @cached_property
    def own_boxes(self) -> OwnBoxes:
        """The table of the policy "own"."""
        return read_own_boxes(Path(self.config.saliency.own_boxes))
