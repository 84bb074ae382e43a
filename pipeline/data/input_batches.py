"""What stage 1 feeds to the network: V_in of a unit's rows, in batches that never cross the unit, decoded ahead."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache.plan import Part
from pipeline.data.clips import cut_clips, resized_frames, video_rows
from pipeline.errors import VideoError
from pipeline.workers.prefetch import PrefetchedKeys


class InputBatch(NamedTuple):
    """Some rows of a unit.

    Attributes:
        rows: local rows.
        clips: uint8 (B, T, H_in, W_in, 3); in pinned memory where a GPU will take it.
        crc: uint32 (B, T), CRC-32 of the source frames.
    """

    rows: list[int]
    clips: Tensor
    crc: np.ndarray


class VideoFailed(NamedTuple):
    """A video of a unit that cannot be read. Batches before this one may hold rows of it: they do not count."""

    video_id: str
    error: VideoError


def decode_ahead(units: list[tuple[Part, int]], videos: Path, threads: int = 1) -> PrefetchedKeys:
    """Decode and resize every video of some units in their order; as many videos ahead as there are threads.

    Args:
        units: (part, number of the unit).
        videos: the folder that the plan's paths are relative to.
    """
    parts = {part.name: part for part, _ in units}
    keys = [_key(part, rows) for part, unit in units for _, rows in video_rows(part, unit)]
    return PrefetchedKeys(partial(_decode, parts, videos), keys, threads, threads)


def _key(part: Part, rows: list[int]) -> tuple[str, int, int]:
    return part.name, rows[0], len(rows)


def _decode(parts: dict[str, Part], videos: Path, key: tuple[str, int, int]) -> Iterator[tuple]:
    name, first, count = key
    return resized_frames(parts[name], list(range(first, first + count)), videos)


def input_batches(
    part: Part, unit: int, decoded: PrefetchedKeys, batch_size: int, pin: bool
) -> Iterator[InputBatch | VideoFailed]:
    """Yield batches of the rows of a unit, each as soon as its frames are decoded, and the videos that fail.

    Args:
        decoded: of `decode_ahead`, for this unit at least.
        pin: put the clips into pinned memory.
    """
    waiting = []
    for video_id, rows in video_rows(part, unit):
        try:
            for clip in cut_clips(part, rows, decoded.get(_key(part, rows))):
                waiting.append(clip)
                if len(waiting) == batch_size:
                    yield _batch(waiting, pin)
                    waiting = []
        except VideoError as error:
            waiting = [clip for clip in waiting if clip[0] not in rows]
            yield VideoFailed(video_id, error)
    if waiting:
        yield _batch(waiting, pin)


def _batch(clips: list[tuple[int, np.ndarray, np.ndarray]], pin: bool) -> InputBatch:
    rows, volumes, crc = zip(*clips, strict=True)
    pixels = torch.from_numpy(np.stack(volumes))
    return InputBatch(list(rows), pixels.pin_memory() if pin else pixels, np.stack(crc))
