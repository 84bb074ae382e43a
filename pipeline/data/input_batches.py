"""What stage 1 feeds to the network: V_in of a unit's rows, in batches that never cross it, decoded ahead."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cache.plan import Part
from pipeline.data.clips import cut_clips, resized_frames, video_rows
from pipeline.errors import VideoError
from pipeline.run.folder import Workspace
from pipeline.run.unit_commits import skip
from pipeline.workers.prefetch import Ahead


@dataclass(frozen=True)
class InputBatch:
    """Some rows of a unit.

    Attributes:
        rows: local rows.
        clips: uint8 (B, T, H_in, W_in, 3); in pinned memory where a GPU will take it.
        crc: uint32 (B, T), CRC-32 of the source frames.
    """

    rows: list[int]
    clips: Tensor
    crc: np.ndarray


def decode_ahead(workspace: Workspace, units: list[tuple[str, int]], threads: int = 1) -> Ahead:
    """The resized frames of every video of some units, (name of the part, unit), in their order; a video is a key.

    As many videos as there are threads are decoded before they are needed.
    """
    parts = {part.name: part for part in workspace.parts}
    keys = [_key(parts[name], rows) for name, unit in units for _, rows in video_rows(parts[name], unit)]
    return Ahead(partial(_decode, workspace, parts), keys, threads, threads)


def _key(part: Part, rows: list[int]) -> tuple[str, int, int]:
    return part.name, rows[0], len(rows)


def _decode(workspace: Workspace, parts: dict[str, Part], key: tuple[str, int, int]) -> Iterator[tuple]:
    name, first, count = key
    return resized_frames(workspace, parts[name], list(range(first, first + count)))


def input_batches(
    workspace: Workspace, part: Part, unit: int, decoded: Ahead, skipped: list[dict], device: torch.device
) -> Iterator[InputBatch]:
    """Every row of a unit, each as soon as its frames are decoded.

    A video that fails is added to `skipped`. Some of its rows may have been in a batch by then: what was made of them
    does not count.
    """
    size, waiting = workspace.config.saliency.batch_size, []
    for video_id, rows in video_rows(part, unit):
        try:
            for clip in cut_clips(part, rows, decoded.get(_key(part, rows))):
                waiting.append(clip)
                if len(waiting) == size:
                    yield _batch(waiting, device)
                    waiting = []
        except VideoError as error:
            skipped.append(skip(video_id, error))
            waiting = [clip for clip in waiting if clip[0] not in rows]
    if waiting:
        yield _batch(waiting, device)


def _batch(clips: list[tuple[int, np.ndarray, np.ndarray]], device: torch.device) -> InputBatch:
    rows, volumes, crc = zip(*clips, strict=True)
    pixels = torch.from_numpy(np.stack(volumes))
    return InputBatch(list(rows), pixels.pin_memory() if device.type == "cuda" else pixels, np.stack(crc))
