"""How far bfloat16 moves the boxes, on a sample of clips."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cache.geometry import iou
from models.box_search import best_box, quantise
from models.i3d import as_input
from models.losses import LossTerms
from models.objectives import Labels, MapKind, saliency_maps
from pipeline.config import OBJECTIVES, Saliency, Task
from pipeline.data.clips import input_clips, video_rows
from pipeline.data.video.find import video_folder
from pipeline.errors import VideoError
from pipeline.run.stores import Stores
from pipeline.run.unit_commits import Unit

LOWEST_OVERLAP = 0.8  # mean intersection over union below which stage 1 warns


@dataclass(frozen=True)
class Agreement:
    """How boxes of the same clips in bfloat16 and in float32 compare."""

    num_boxes: int
    equal: int
    overlap: float  # mean intersection over union

    def __str__(self) -> str:
        return f"{self.equal} of {self.num_boxes} sampled boxes as in float32, mean overlap {self.overlap:.3f}"


def sample_agreement(stores: Stores, units: list[Unit], network: nn.Module) -> Agreement | None:
    """Compare boxes on up to a batch of clips of the first video that can be read; None where there is none."""
    config, device = stores.config, next(network.parameters()).device
    for unit in units:
        part = stores.run.part(unit.part)
        for _, rows in video_rows(part, unit.number):
            rows = rows[: config.saliency.batch_size]
            try:
                clips = np.stack([clip for _, clip, _ in input_clips(part, rows, video_folder(config.data))])
            except VideoError:
                continue
            targets = (torch.from_numpy(one).to(device) for one in stores.run.annotations.clip_targets(part, rows))
            labels = Labels(*targets, LossTerms.of(config.base, config.data.task))
            video = as_input(torch.from_numpy(clips), device)
            return box_agreement(network, video, config.saliency, labels, config.data.task)
    return None


def box_agreement(
    network: nn.Module,
    video: torch.Tensor,
    saliency: Saliency,
    labels: Labels | None = None,
    task: Task = "multi_label",
) -> Agreement:
    """Find the boxes of clips in both precisions, for every objective.

    Args:
        video: float32 (B, T, H, W, 3) in [0, 1].
        labels: for the objective "cross_entropy".
    """
    found, side = [], saliency.box_side
    for precision in ("float32", "bfloat16"):
        how = MapKind.of(saliency)._replace(time_segments=1), precision, labels, task
        _, maps = saliency_maps(network, video, [one for one in saliency.objectives if one in OBJECTIVES], *how)
        found.append([_box(values, side) for batch in maps.values() for values in batch.float().cpu().numpy()])
    exact, rough = map(np.array, found)
    return Agreement(len(exact), int((exact == rough).all(1).sum()), float(iou(exact, rough).mean()))


def _box(values: np.ndarray, side: int) -> tuple[int, int, int, int]:
    top, left, _ = best_box(quantise(values)[0], side, side)
    return top, left, side, side
