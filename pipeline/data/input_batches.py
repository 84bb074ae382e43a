"""What stage 1 feeds to the network: V_in of a unit's rows, in batches that never cross the unit, decoded ahead."""

from collections.abc import Iterator
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
    """Some local rows of a unit."""

    rows: list[int]
    clips: Tensor  # uint8 (B, T, H_in, W_in, 3)
    crc: np.ndarray  # uint32 (B, T), CRC-32 of the source frames


class VideoFailed(NamedTuple):
    """A video of a unit that cannot be read. Earlier batches may hold rows of it: they do not count."""

    video_id: str
    error: VideoError


def decode_ahead(units: list[tuple[Part, int]], videos: Path, threads: int = 1) -> PrefetchedKeys:
    """Decode and resize every video of some units, (part, number), as many videos ahead as there are threads."""
    parts = {part.name: part for part, _ in units}
    keys = [_key(part, rows) for part, unit in units for _, rows in video_rows(part, unit)]
    return PrefetchedKeys(lambda key: resized_frames(parts[key[0]], list(key[1:]), videos), keys, threads, threads)


def _key(part: Part, rows: list[int]) -> tuple:
    return part.name, *rows


def input_batches(
    part: Part, unit: int, decoded: PrefetchedKeys, batch_size: int, pin: bool
) -> Iterator[InputBatch | VideoFailed]:
    """Yield batches of the rows of a unit, each as soon as its frames are decoded, and the videos that fail.

    Args:
        decoded: of `decode_ahead`, for this unit at least.
        pin: put the clips into pinned memory, from which a GPU takes them.
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
