"""Stage 2: every row's box is cut from the source frames as they pass, and goes to HDF5 with the context volumes."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.folder_checks import check_folder, check_locks, check_space
from cache.geometry import Box
from cache.plan import Part
from cache.stores.frame_codec import encode_volume
from cache.stores.volume_store import VolumeStore, unit_bytes
from cache.stores.zarr_store import ZarrStore
from pipeline.config import Config, Pixels, Policy
from pipeline.data.clips import source_frames, video_rows
from pipeline.data.pixels import apply_theta, cut_input, cut_source
from pipeline.data.video.frames import VideoError
from pipeline.run.folder import Workspace
from pipeline.run.networks import load_base
from pipeline.run.outcome import Outcome
from pipeline.run.stores import open_base, open_boxes, open_context, open_crops
from pipeline.run.unit_commits import retry_skipped, rows_done, skip, skip_all, skipped_videos, take
from pipeline.run.units import EVERYTHING, Share, open_workspace, run_units
from pipeline.stages import boxes
from pipeline.workers import phases
from pipeline.workers.engines import HERE, Engine


class FramesDiffer(VideoError):
    """The decoder gave other pixels than in the first stage."""


def run(
    config: Config,
    run_dir: Path,
    policies: tuple[Policy, ...],
    pixels: Pixels = "source",
    context: bool = True,
    splits: tuple[str, ...] = ("train", "test"),
    share: Share = EVERYTHING,
    retry: bool = False,
    engine: Engine = HERE,
) -> Outcome:
    """Fill context volumes and, for each policy, boxes and focused volumes, for every part of the plan.

    Reads the plan, Base's weights (as a key), maps, base (to check frames) and the videos. Writes boxes/ (policies
    without maps), context/ and crops/. Each video is decoded once, whatever is missing of it.

    Args:
        policies: which boxes: entropy, cross_entropy, random, center.
        pixels: cut from the "source" video, or enlarged from the "input" (the paper's "upscaled").
        context: fill the context volumes too.
        splits: only the parts of these.
        share: only these units.
        retry: do units with skipped videos again.
        engine: who works.
    Raises:
        StorageError: the disk has no room for what is to come.
        StageError: maps or Base are not there.
    """
    workspace = Workspace(run_dir, config)
    base = load_base(workspace)
    check_folder(run_dir)
    check_locks(run_dir, cluster=not engine.is_here)
    for policy in policies:
        boxes.run_policy(workspace, base, policy, splits, share, engine)
    jobs, parts = [], [part for part in workspace.parts if part.split in splits]
    num_bytes = num_files = 0
    for part in parts:
        stores = _stores(workspace, part, policies, pixels, context).values()
        if retry:
            retry_skipped(stores)
        for store in stores:
            todo = share.units(store.product.todo())
            num_bytes += sum(_expected_bytes(store, unit) for unit in todo)
            num_files += 4 * len(todo)  # volume, record, lock, and a temporary one
        todo = share.units(set().union(*(store.product.todo() for store in stores)))
        jobs += [(part.name, unit, policies, pixels, context) for unit in todo]
    check_space(run_dir, num_bytes, num_files)
    rows = run_units(_do_unit, workspace, jobs, config.workers, "crops", engine)
    skipped, size = set(), 0
    for part in parts:
        for store in _stores(workspace, part, policies, pixels, context).values():
            skipped |= skipped_videos(store)
            units = set(range(part.num_units)) - set(store.product.todo())
            size += sum(file["bytes"] for unit in units for file in store.product.checked_record(unit)["files"])
    names = ", ".join((*["context"] * context, *policies))
    summary = f"{rows} rows cut now; {names} from {pixels} pixels: {size / 1e6:.1f} MB"
    return Outcome(run_dir / "crops", summary, len(skipped))


def _expected_bytes(store: VolumeStore, unit: int) -> int:
    """What a unit will hardly exceed: half a byte a pixel as JPEG, two as PNG. `plan` measures it instead."""
    rows, (height, width) = len(store.part.unit_rows(unit)), store.size
    pixels = rows * store.num_frames * height * width
    return unit_bytes(pixels // 2 if store.codec == "jpeg" else 2 * pixels, rows, store.num_frames)


def _stores(
    workspace: Workspace, part: Part, policies: tuple[Policy, ...], pixels: Pixels, context: bool
) -> dict[str, VolumeStore]:
    """The context store if asked for, and one of crops per policy, by name."""
    weights = load_base(workspace).sha256
    return ({"context": open_context(workspace, part)} if context else {}) | {
        policy: open_crops(workspace, part, weights, policy, pixels) for policy in policies
    }


def _do_unit(
    run_dir: Path,
    config: Config,
    part_name: str,
    unit: int,
    policies: tuple,
    pixels: Pixels,
    context: bool,
    wait: bool = False,
    crashed: str = "",
) -> int | None:
    """Cut and commit one unit of every store that lacks it; rows done, None as `run_units` says."""
    workspace = open_workspace(run_dir, config)
    part = next(part for part in workspace.parts if part.name == part_name)
    with ExitStack() as locks:
        everything = _stores(workspace, part, policies, pixels, context)
        stores = take(everything, unit, locks, wait)
        volumes = {name: [] for name in stores}
        skipped = skip_all(part, unit, crashed) if crashed and stores else []
        seen = _seen(workspace, part, unit, policies) if stores and not crashed else None
        for video_id, rows in video_rows(part, unit) if stores else ():
            if crashed:
                for name in stores:
                    volumes[name] += [None] * len(rows)
                continue
            try:
                found = _cut_video(workspace, part, rows, stores, pixels, seen)
            except VideoError as error:
                skipped.append(skip(video_id, error))
                found = {name: [None] * len(rows) for name in stores}
            for name, encoded in found.items():
                volumes[name] += encoded
        with phases.phase("write"):
            for name, store in stores.items():
                store.write_unit(unit, volumes[name], skipped)
        return rows_done(everything, stores, unit)


def _cut_video(
    workspace: Workspace, part: Part, rows: list[int], stores: dict[str, VolumeStore], pixels: Pixels, seen: "_Seen"
) -> dict[str, list[list[bytes]]]:
    """Encoded frames of every store, row and frame of one video; one source frame is alive at a time."""
    clips = [part.clip(row) for row in rows]
    if any(row not in by_row for by_row in seen.everything() for row in rows):
        raise FramesDiffer(f"{clips[0].video_id} was left out by saliency")
    encoded = {name: [[b""] * part.num_frames for _ in rows] for name in stores}
    for index, frame, checksum in source_frames(workspace, part, rows):
        for number, clip in enumerate(clips):
            places = [place for place, wanted in enumerate(clip.frame_indices) if wanted == index]
            if not places:
                continue
            if seen.frames is not None and seen.frames[rows[number]][places[0]] != checksum:
                raise FramesDiffer(
                    f"{clip.video_id}, frame {index}: not the pixels that saliency saw; was the file changed?"
                )
            needs_input = pixels == "input" or "context" in stores
            with phases.phase("resize"):
                frame_input = apply_theta(frame, clip.theta) if needs_input else None
            for name, store in stores.items():
                with phases.phase("resize"):
                    if name == "context":
                        picture = frame_input
                    elif pixels == "input":
                        picture = cut_input(frame_input, seen.boxes[name][rows[number]], part.input_size)
                    else:
                        picture = cut_source(frame, clip.theta, seen.boxes[name][rows[number]], part.input_size)
                with phases.phase("encode"):
                    (content,) = encode_volume(picture[None], store.codec, store.quality)
                for place in places:
                    encoded[name][number][place] = content
    return encoded


@dataclass(frozen=True)
class _Seen:
    """What stage 1 found in the rows of a unit, by row; nothing of the videos that it left out.

    Attributes:
        boxes: box_input, by policy.
        frames: CRC-32 of the source frames as it saw them, uint32 (T,); None where it has not run.
    """

    boxes: dict[str, dict[int, Box]]
    frames: dict[int, np.ndarray] | None

    def everything(self) -> list[dict]:
        return [*self.boxes.values(), *([] if self.frames is None else [self.frames])]


def _seen(workspace: Workspace, part: Part, unit: int, policies: tuple[Policy, ...]) -> _Seen:
    base, boxes = load_base(workspace), {}
    for policy in policies:
        values = _by_row(open_boxes(workspace, part, base.sha256, policy), unit, "box_input")
        boxes[policy] = {row: Box(*map(int, value)) for row, value in values.items()}
    store = open_base(workspace, part, base.sha256, base.out_frames, base.num_classes)
    return _Seen(boxes, _by_row(store, unit, "frame_crc") if store.product.is_done(unit) else None)


def _by_row(store: ZarrStore, unit: int, array: str) -> dict[int, np.ndarray]:
    """An array of a unit by row, without the videos that its record names as left out."""
    failed = {entry["video_id"] for entry in store.product.checked_record(unit)["skipped"]}
    rows = [row for row in store.part.unit_rows(unit) if store.part.video_ids[row] not in failed]
    return dict(zip(rows, store.read_rows(array, np.array(rows, np.int64)), strict=True))
