"""What stage 1 feeds to the network: V_in of a unit's rows, in batches that never cross the unit, decoded ahead."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache.plan import Part
from pipeline.data.clips import input_clips, video_rows
from pipeline.data.decoding_processes import DecodingProcesses, num_processes
from pipeline.data.segments import is_segment
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


def decode_ahead(
    units: list[tuple[Part, int]], videos: Path, workers: int = 1, processes: bool = False
) -> PrefetchedKeys | DecodingProcesses:
    """Decode every video of some units, (part, number), and cut its clips, as many videos ahead as there are workers.

    Args:
        workers: threads that do so.
        processes: let processes do so, where there are several, and the videos are no segments: neighbours of these
            share what a process has decoded.
    """
    parts = {part.name: part for part, _ in units}
    keys = [_key(part, rows) for part, unit in units for _, rows in video_rows(part, unit)]
    work = partial(_clips_of, parts, videos)
    if processes and not any(is_segment(parts[name].rows.video_path.iat[row]) for name, row, *_ in keys):
        sizes = [part.rows_per_video * part.num_frames * math.prod(part.input_size) * 3 for part in parts.values()]
        if number := num_processes(min(workers, len(keys)), max(sizes, default=0)):
            return DecodingProcesses(work, keys, number)
    return PrefetchedKeys(work, keys, workers, workers)


def _clips_of(parts: dict[str, Part], videos: Path, key: tuple) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    name, *rows = key
    return input_clips(parts[name], rows, videos)


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
            for clip in decoded.get(_key(part, rows)):
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
    pixels = torch.empty((len(volumes), *volumes[0].shape), dtype=torch.uint8, pin_memory=pin)
    np.stack(volumes, out=pixels.numpy())
    return InputBatch(list(rows), pixels, np.stack(crc))
