"""Look again at the focused volume: a tighter box inside the first one, as long as Base's saliency does not spread."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from cache.geometry import Box, Clip
from models.box_search import best_box, quantise
from models.compiled import compile_network
from models.frozen.fold import fold
from models.i3d import as_input
from models.objectives import MapKind, saliency_maps
from pipeline.config import Saliency, Task
from pipeline.data.clips import focused_volumes
from pipeline.run.networks import BaseWeights, build_base
from pipeline.workers import phases


class Closer(NamedTuple):
    """The box of a clip after all looks at it."""

    box: Box  # of the input frame
    share: float  # of the first map inside; NaN where that is empty
    looks: int  # whose box was taken, 1 for the first alone


def spatial_entropy(codes: np.ndarray) -> float:
    """Compute how far a map, uint16 (H, W), is spread: H = -sum p log p over pixels, p = codes / sum of codes, nats.

    Infinite for a map of zeros, which shows nothing.
    """
    values = codes[codes > 0].astype(np.float64)
    p = values / values.sum()
    return float(-(p * np.log(p)).sum()) if len(p) else float("inf")


def look_closer(
    maps: Mapping[int, np.ndarray], saliency: Saliency, look: Callable[[dict[int, Box]], Mapping[int, np.ndarray]]
) -> dict[int, Closer]:
    """Find the boxes of clips by up to `saliency.looks` looks at each.

    The first box is the best one of the clip's map. Base looks at the focused volume that it cuts, enlarged to the
    input; the best box of that map, by the same `box_side`, is the next one, in input pixels rounded outwards. A look
    whose map has a higher spatial entropy than the one before is not followed, and is the last; see `spatial_entropy`.

    Args:
        maps: of the first look at each clip, uint16 (H_in, W_in), by any number.
        look: boxes of the input frame, by number, to the maps of their focused volumes, uint16 (H_in, W_in); a clip
            that it leaves out, as of a video that cannot be read, is left out of what is returned.
    """
    side, found, boxes, entropy = saliency.box_side, {}, {}, {}
    for number, codes in maps.items():
        boxes[number] = _best(codes, side)
        found[number], entropy[number] = 1, spatial_entropy(codes)
    going = {number: box for number, box in boxes.items() if entropy[number] < float("inf")}
    for _ in range(1, saliency.looks):
        seen = look(going) if going else {}
        for number in going.keys() - seen.keys():
            del boxes[number]
        again = {}
        for number, codes in seen.items():
            if (now := spatial_entropy(codes)) > entropy[number]:
                continue
            entropy[number], found[number] = now, found[number] + 1
            again[number] = boxes[number] = boxes[number].zoomed(_best(codes, side), codes.shape)
        going = again
    return {number: Closer(box, _share(maps[number], box), found[number]) for number, box in boxes.items()}


def closer_boxes(
    network: nn.Module,
    clips: Sequence[Clip],
    frames: Sequence[Mapping[int, np.ndarray]],
    maps: Sequence[np.ndarray],
    saliency: Saliency,
    how: tuple[str, Task],
) -> list[Box]:
    """Find the boxes of clips whose source frames, by index, are at hand; see `look_closer`.

    Args:
        how: the objective and the task, as `focus_maps` takes them.
    """

    def look(boxes: dict[int, Box]) -> dict[int, np.ndarray]:
        cut = (focused_volumes(clips[one], [box], "source", frames[one], None) for one, box in boxes.items())
        return dict(zip(boxes, focus_maps(network, list(cut), saliency, *how), strict=True))

    return [one.box for one in look_closer(dict(enumerate(maps)), saliency, look).values()]


def focus_maps(
    network: nn.Module, volumes: Sequence[np.ndarray], saliency: Saliency, objective: str, task: Task
) -> list[np.ndarray]:
    """Compute the maps of focused volumes, uint8 (T, H_in, W_in, 3), in batches as stage 1: uint16 (H_in, W_in)."""
    device, found = next(network.parameters()).device, []
    for first in range(0, len(volumes), saliency.batch_size):
        video = as_input(torch.from_numpy(np.stack(volumes[first : first + saliency.batch_size])), device)
        with phases.device_phase("network", device):
            maps = saliency_maps(network, video, [objective], MapKind.of(saliency), saliency.precision, None, task)[1]
        found += [quantise(one)[0] for one in maps[objective].cpu().numpy()]
    return found


@lru_cache(maxsize=1)
def frozen_base(base: BaseWeights, device: torch.device, compiled: bool = False) -> nn.Module:
    """Build Base frozen, with batch-norm folded; keep it for the next call in this process, such as of a table."""
    return compile_network(fold(build_base(base)).to(device), compiled)


def _best(codes: np.ndarray, side: int) -> Box:
    top, left, _ = best_box(codes, side, side)
    return Box(top, left, side, side)


def _share(codes: np.ndarray, box: Box) -> float:
    total = int(codes.sum(dtype=np.int64))
    inside = codes[box.top : box.bottom, box.left : box.right].sum(dtype=np.int64)
    return float(inside / total) if total else float("nan")
