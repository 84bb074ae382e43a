"""What bfloat16 costs: boxes of a sample of clips, looked for in both precisions."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from cache.geometry import iou
from models.box_search import best_box, quantise
from models.i3d import as_input
from models.objectives import saliency_maps
from pipeline.config import Config
from pipeline.data.clips import input_clips, video_rows
from pipeline.errors import VideoError
from pipeline.run.folder import Workspace

LOWEST_OVERLAP = 0.8  # mean intersection over union below which stage 1 warns


@dataclass(frozen=True)
class Agreement:
    """Boxes of the same clips in bfloat16 and in float32.

    Attributes:
        num_boxes: compared. equal: how many are the same box. overlap: mean intersection over union.
    """

    num_boxes: int
    equal: int
    overlap: float

    def __str__(self) -> str:
        return f"{self.equal} of {self.num_boxes} sampled boxes as in float32, mean overlap {self.overlap:.3f}"


def sample_agreement(
    workspace: Workspace, jobs: list[tuple[str, int]], network: nn.Module, device: torch.device
) -> Agreement | None:
    """Agreement on up to a batch of clips of the first video of these units that can be read; None if none can.

    Args:
        jobs: (name of the part, unit).
        network: Base, frozen, on the device.
    """
    config, parts = workspace.config, {part.name: part for part in workspace.parts}
    for name, unit in jobs:
        for _, rows in video_rows(parts[name], unit):
            rows = rows[: config.saliency.batch_size]
            try:
                clips = np.stack([clip for _, clip, _ in input_clips(workspace, parts[name], rows)])
            except VideoError:
                continue
            labels = workspace.targets(parts[name], rows)
            targets = tuple(torch.from_numpy(values).to(device) for values in labels)
            return box_agreement(network, as_input(torch.from_numpy(clips), device), config, targets)
    return None


def box_agreement(
    network: nn.Module, video: torch.Tensor, config: Config, targets: tuple[torch.Tensor, torch.Tensor] | None
) -> Agreement:
    """Look at clips, float32 (B, T, H, W, 3) in [0, 1], in both precisions, for every objective of the config."""
    found = []
    for precision in ("float32", "bfloat16"):
        one = replace(config, saliency=replace(config.saliency, precision=precision))
        known = targets if "cross_entropy" in config.saliency.objectives else None
        _, maps = saliency_maps(network, video, config.saliency.objectives, one, known)
        found.append([_box(values, config) for batch in maps.values() for values in batch.float().cpu().numpy()])
    exact, rough = map(np.array, found)
    return Agreement(len(exact), int((exact == rough).all(1).sum()), float(iou(exact, rough).mean()))


def _box(values: np.ndarray, config: Config) -> tuple[int, int, int, int]:
    side = config.saliency.box_side
    top, left, _ = best_box(quantise(values)[0], side, side)
    return top, left, side, side
