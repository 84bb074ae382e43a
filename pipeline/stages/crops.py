"""Stage 2: every row's box is cut from the source frames as they pass, and goes to HDF5 with the context volumes."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cache.errors import NotDoneError
from cache.folder_checks import check_folder, check_locks
from cache.geometry import Box, Clip, boxes_by_frame
from cache.plan import Part
from cache.stores.frame_codec import encode_volume
from cache.stores.volume_store import VolumeStore, unit_bytes
from pipeline.box_settings import num_segments
from pipeline.config import Config, Pixels, Policy
from pipeline.data.clips import source_frames, video_rows
from pipeline.data.pixels import apply_theta, cut_input, cut_source
from pipeline.errors import VideoError
from pipeline.run.folder import holds_run
from pipeline.run.outcome import Outcome, say_left_out
from pipeline.run.unit_commits import Unit, UnitWork, skip, skipped_videos, withdraw_skipped
from pipeline.run.units import EVERYTHING, Share, gather_records, run_units, units_to_do
from pipeline.stages import boxes
from pipeline.workers import phases
from pipeline.workers.engines import LOCAL, Engine

EncodedRows = list[list[bytes] | None]  # frames of each row; None for a row of a skipped video


class FramesDiffer(VideoError):
    """The decoder gave other pixels than in the first stage."""


@holds_run
def run(
    config: Config,
    run_dir: Path,
    policies: tuple[Policy, ...],
    pixels: Pixels = "source",
    context: bool = True,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    retry: bool = False,
    engine: Engine = LOCAL,
) -> Outcome:
    """Fill context volumes and, for each policy, boxes and focused volumes, for every part of the plan.

    Reads the plan, Base's weights (as a key), maps, base (to check frames) and the videos. Writes boxes/ (policies
    without maps), context/ and crops/. Each video is decoded once, whatever is missing of it.

    Args:
        pixels: cut from the "source" video, or enlarged from the "input" (the paper's "upscaled").
        share, retry: only these units; do units with skipped videos again.
    Raises:
        StorageError: the disk has no room for what is to come.
        StageError: maps or Base are not there.
    """
    work = CropWork(run_dir, config, policies, pixels, context)
    parts = work.stores.run.parts_of(*splits)
    check_folder(run_dir)
    check_locks(run_dir, cluster=not engine.is_local)
    for policy in policies:
        boxes.run_policy(work.stores, policy, splits, share, engine)
    filled = [store for part in parts for store in work.stores_of(part)]
    if retry:
        withdraw_skipped(filled)
    units = units_to_do(work, parts, share, _expected_size)
    rows = run_units(work, units, config.workers, "crops", engine)
    gather_records(filled if units else ())
    names = ", ".join((*["context"] * context, *policies))
    size = sum(store.product.num_bytes() for store in filled)
    summary = f"{rows} rows cut now; {names} from {pixels} pixels: {size / 1e6:.1f} MB"
    skipped = skipped_videos(filled)
    return Outcome(run_dir / "crops", summary, len(skipped), say_left_out(skipped))


def _expected_size(store: VolumeStore, units: list[int]) -> tuple[int, int]:
    """Return bytes that units will hardly exceed, half a byte a pixel as JPEG, two as PNG; and how many files."""
    num_bytes, (height, width) = 0, store.size
    for unit in units:
        rows = len(store.part.unit_rows(unit))
        pixels = rows * store.num_frames * height * width  # num_frames: of all boxes
        num_bytes += unit_bytes(pixels // 2 if store.codec == "jpeg" else 2 * pixels, rows, store.num_frames)
    return num_bytes, 4 * len(units)  # volume, record, lock, and a temporary one


@dataclass(frozen=True)
class CropWork(UnitWork):
    """Cuts the volumes of a unit; the arguments are those of `run`."""

    policies: tuple[Policy, ...]
    pixels: Pixels
    context: bool

    def stores_of(self, part: Part) -> list[VolumeStore]:
        """Return the context store if asked for, and one of crops per policy."""
        context = [self.stores.context(part)] if self.context else []
        return context + [self.stores.crops(part, policy, self.pixels) for policy in self.policies]

    def blank(self, part: Part, unit: Unit, wanted: list[VolumeStore]) -> dict[VolumeStore, EncodedRows]:
        """Return a unit without volumes."""
        return {store: [None] * len(part.unit_rows(unit.number)) for store in wanted}

    def compute(
        self, part: Part, unit: Unit, wanted: list[VolumeStore], skipped: list[dict]
    ) -> dict[VolumeStore, EncodedRows]:
        """Decode each video of the unit once; cut and encode the volumes of every store."""
        crops = {policy: self.stores.crops(part, policy, self.pixels) for policy in self.policies}
        context = self.stores.context(part) if self.context else None
        targets = _Targets(
            context if context in wanted else None,
            {policy: store for policy, store in crops.items() if store in wanted},
            self.pixels,
        )
        volumes, found = {store: [] for store in wanted}, self._found_by_saliency(part, unit)
        for video_id, rows in video_rows(part, unit.number):
            try:
                encoded = _cut_video(part, rows, targets, found, self.videos)
            except VideoError as error:
                skipped.append(skip(video_id, error))
                encoded = {store: [None] * len(rows) for store in wanted}
            for store in wanted:
                volumes[store] += encoded[store]
        return volumes

    def _found_by_saliency(self, part: Part, unit: Unit) -> "_Found":
        found = {}
        for policy in self.policies:
            values = self.stores.boxes(part, policy).read_unit(unit.number, "box_input")
            how = part.num_frames, num_segments(policy, self.config.saliency)
            found[policy] = {row: boxes_by_frame(_boxes(value), *how) for row, value in values.items()}
        frames = None
        with suppress(NotDoneError):
            frames = self.stores.base(part).read_unit(unit.number, "frame_crc")
        return _Found(found, frames)


class _Targets(NamedTuple):
    """The stores that lack a unit, and what the pixels of the crops are cut from."""

    context: VolumeStore | None
    crops: dict[Policy, VolumeStore]
    pixels: Pixels


@dataclass(frozen=True)
class _Found:
    """What stage 1 found in the rows of a unit, by row; nothing of the videos that it left out."""

    boxes: dict[str, dict[int, list[list[Box]]]]  # box_input of every frame, by policy; a list for each volume
    frames: dict[int, np.ndarray] | None  # uint32 (T,), CRC-32 of the source frames it saw; None where it has not run

    def has(self, row: int) -> bool:
        """Whether stage 1 could read the row's video."""
        found = [*self.boxes.values(), *([] if self.frames is None else [self.frames])]
        return all(row in by_row for by_row in found)


def _boxes(values: np.ndarray) -> list[Box]:
    """Return the boxes of a row, int32 (4,) or, of several, (k, 4)."""
    return [Box(*edges) for edges in values.reshape(-1, 4).tolist()]


def _cut_video(
    part: Part, rows: list[int], targets: _Targets, found: _Found, videos: Path
) -> dict[VolumeStore, list[list[bytes]]]:
    """Encode the frames of one video by store, row, box and frame, while one source frame is alive at a time.

    Raises:
        FramesDiffer: stage 1 has left the video out, or has seen other pixels.
        VideoError: the video cannot be read.
    """
    clips = {row: part.clip(row) for row in rows}
    if not all(found.has(row) for row in rows):
        raise FramesDiffer(f"{clips[rows[0]].video_id} was left out by saliency")
    stores = [*targets.crops.values(), *([targets.context] if targets.context else [])]
    encoded = {store: {row: [b""] * store.num_frames for row in rows} for store in stores}
    for index, frame, checksum in source_frames(part, rows, videos):
        for row, clip in clips.items():
            places = [place for place, wanted in enumerate(clip.frame_indices) if wanted == index]
            if not places:
                continue
            if found.frames is not None and found.frames[row][places[0]] != checksum:
                where = f"{clip.video_id}, frame {index}"
                raise FramesDiffer(f"{where}: not the pixels that saliency saw; was the file changed?")
            looks = {policy: found.boxes[policy][row] for policy in targets.crops}
            # one group, but for a frame that a short video repeats, in several segments of time
            for boxes_here, places_here in groupby(places, partial(_boxes_at, looks)):
                places_here = list(places_here)
                with phases.phase("resize"):
                    pictures = _cut_frame(frame, clip, boxes_here, targets)
                with phases.phase("encode"):
                    for store, of_boxes in pictures.items():
                        for number, content in enumerate(encode_volume(np.stack(of_boxes), store.codec, store.quality)):
                            for place in places_here:
                                encoded[store][row][number * part.num_frames + place] = content
    return {store: list(by_row.values()) for store, by_row in encoded.items()}


def _boxes_at(looks: dict[Policy, list[list[Box]]], place: int) -> dict[Policy, list[Box]]:
    """Return the box of every look at one place of a clip."""
    return {policy: [look[place] for look in of_policy] for policy, of_policy in looks.items()}


def _cut_frame(
    frame: np.ndarray, clip: Clip, boxes_input: dict[Policy, list[Box]], targets: _Targets
) -> dict[VolumeStore, list[np.ndarray]]:
    """Return the pictures of one source frame for each store, one a box, uint8 (H_in, W_in, 3)."""
    size, from_input = clip.theta.input_size, targets.pixels == "input"
    frame_input = apply_theta(frame, clip.theta) if targets.context or from_input else None
    pictures = {targets.context: [frame_input]} if targets.context else {}
    for policy, store in targets.crops.items():
        pictures[store] = [
            cut_input(frame_input, box, size) if from_input else cut_source(frame, clip.theta, box, size)
            for box in boxes_input[policy]
        ]
    return pictures
