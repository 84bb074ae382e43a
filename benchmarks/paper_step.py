"""A training step as the paper describes it, written plainly: boxes by the network being trained, nothing stored.

Two decodes of the source (what the network sees, then what is cut), nn.Conv3d, autograd, the box by a convolution with
ones; in late fusion a frozen Base in a forward pass of its own. Boxes that look at nothing need one decode alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.key_frame import clip_frames
from benchmarks.networks import BOX
from benchmarks.saliency_box import plainly
from cache.geometry import Box, Clip
from models.losses import charades_loss
from pipeline.config import Fusion
from pipeline.data.pixels import apply_theta, cut_source


@dataclass(frozen=True)
class PaperStep:
    """Steps of one fusion model on single clips.

    Args:
        network: (B, T, H, W, 3) in [0, 1] to logits; trained.
        base: Base, frozen; only late fusion asks it.
        fps: the clips' rate.
        boxes: "entropy"; "center", which looks at nothing; or "repeat" for V_in again.
    """

    network: nn.Module
    base: nn.Module
    optimiser: torch.optim.Optimizer
    fusion: Fusion
    fps: float
    boxes: str = "entropy"

    def __call__(self, path: Path, clip: Clip, video_targets: Tensor, frame_targets: Tensor) -> float:
        """One step; the loss before it.

        Args:
            video_targets, frame_targets: float32 (1, C) and (1, T, C).
        """
        source, looks = self._decode(path, clip), self.boxes == "entropy"
        source = source if looks else list(source)
        focus = context = _volume({i: apply_theta(frame, clip.theta) for i, frame in source}, clip)
        if self.boxes != "repeat":
            place = plainly(self.network.eval(), context).box if looks else ((clip.theta.input_size[0] - BOX) // 2,) * 2
            box, source = Box(*place, BOX, BOX), self._decode(path, clip) if looks else source
            cut = {i: cut_source(frame, clip.theta, box, clip.theta.input_size) for i, frame in source}
            focus = _volume(cut, clip)
        self.network.train()
        if self.fusion == "late":
            with torch.no_grad():
                base_logits = self.base(context)
            logits = (base_logits + self.network(focus)) / 2
        else:
            logits = self.network(torch.cat([context, focus], 1))
            frame_targets = frame_targets.repeat(1, 2, 1)
        loss = charades_loss(logits, video_targets, frame_targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def _decode(self, path: Path, clip: Clip):
        return clip_frames(path, sorted(set(clip.frame_indices)), self.fps)


def _volume(frames: dict[int, np.ndarray], clip: Clip) -> Tensor:
    """Frames by index as float32 (1, T, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.stack([frames[index] for index in clip.frame_indices]))[None].float() / 255
