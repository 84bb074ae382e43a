"""Clips of training on the fly."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from cache.geometry import Clip
from models.box_search import quantise
from models.frozen.fold import fold
from models.i3d import as_input
from models.objectives import saliency_maps
from pipeline.config import OBJECTIVES, Focus, Fusion, Pixels
from pipeline.data.box_policies import find_box
from pipeline.data.clips import TrainVideo, train_videos
from pipeline.data.pixels import apply_theta, cut_input, cut_source
from pipeline.data.sampling import frame_indices, train_clip
from pipeline.data.video.frames import read_frames
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights, build_base
from pipeline.training.fusion_step import fusion_loss
from pipeline.training.loader import Batch
from pipeline.workers import phases

Looker = Literal["base", "current"]


@dataclass(frozen=True)
class Sources:
    """Source frames of a batch, which stay on the host, where boxes are cut.

    Attributes:
        clips: one a clip of the batch.
        frames: by clip, source frames uint8 (H, W, 3) by their index.
    """

    clips: list[Clip]
    frames: list[dict[int, np.ndarray]]

    def to(self, *_, **__) -> "Sources":
        """A batch is moved to the device part by part; this part stays."""
        return self


class Online:
    """Batches whose boxes are looked for when they are trained on.

    Args:
        fusion, focus, pixels, looker: as in `run`.
        device: of the network.
    """

    def __init__(
        self,
        workspace: Workspace,
        base: BaseWeights,
        fusion: Fusion,
        focus: Focus,
        pixels: Pixels,
        looker: Looker,
        device: torch.device,
    ):
        self.workspace, self.config, self.device = workspace, workspace.config, device
        self.fusion, self.focus, self.pixels, self.looker = fusion, focus, pixels, looker
        self.videos = train_videos(workspace)
        self.base = fold(build_base(workspace, base)).to(device)

    def load(self, epoch: int, numbers: list[int]) -> tuple:
        """V_in uint8 (B, T, H_in, W_in, 3), labels float32 (B, C) of videos and (B, T, C) of frames, Sources."""
        clips, frames, context, times = [], [], [], []
        for number in numbers:
            clip, found = self._decode(self.videos[number], epoch)
            with phases.phase("resize"):
                seen = {index: apply_theta(frame, clip.theta) for index, frame in found.items()}
                context.append(np.stack([seen[index] for index in clip.frame_indices]))
            times.append(np.array(clip.frame_indices) / self.videos[number].fps)
            clips.append(clip)
            frames.append(found)
        annotations, ids = self.workspace.annotations, [clip.video_id for clip in clips]
        in_frames = [annotations.frame_targets(video_id, when) for video_id, when in zip(ids, times, strict=True)]
        return (
            torch.from_numpy(np.stack(context)),
            torch.from_numpy(annotations.video_targets(ids).astype(np.float32)),
            torch.from_numpy(np.stack(in_frames).astype(np.float32)),
            Sources(clips, frames),
        )

    def loss(self, network: nn.Module, batch: tuple) -> Tensor:
        """The training loss of `train_fusion` on volumes that are looked for and cut now."""
        return fusion_loss(network, self.look(network, batch), self.fusion, self.config)

    def look(self, network: nn.Module, batch: tuple) -> Batch:
        """From a batch of `load` to one of `Volumes.load`: focused volumes, Base's logits or V_in, labels."""
        context, video_targets, frame_targets, sources = batch
        logits, codes = self._maps(network, context, (video_targets, frame_targets))
        parts = zip(sources.clips, sources.frames, context.cpu().numpy(), codes, strict=True)
        with phases.phase("resize"):
            volumes = np.stack([self._cut(*one) for one in parts])
        with phases.settled("transfer", self.device):
            focus = torch.from_numpy(volumes).to(self.device, non_blocking=True)
        return focus, logits if self.fusion == "late" else context, video_targets, frame_targets

    def _decode(self, video: TrainVideo, epoch: int) -> tuple[Clip, dict[int, np.ndarray]]:
        """Augmentation `epoch` of a video and its source frames, each decoded once."""
        clips = self.config.clips
        start, theta = train_clip(clips, video.video_id, epoch, video.num_frames, video.source_size)
        indices = frame_indices(start, clips.num_frames, video.num_frames)
        rate, source_fps = clips.fps or None, self.config.data.source_fps or None
        wanted = sorted(set(indices))
        with phases.phase("decode"):
            frames = dict(read_frames(video.path, wanted, rate, video.timing, source_fps))
        return Clip(video.video_id, 0, epoch, indices, theta), frames

    def _maps(self, network: nn.Module, context: Tensor, targets: tuple) -> tuple[Tensor | None, list]:
        """Base's logits (late fusion; else None) and the quantised map of each clip (None where no map is asked).

        In chunks of `saliency.batch_size`, whose arithmetic is that of stage 1.
        """
        looks = self.focus in OBJECTIVES
        if not looks and self.fusion == "concat":
            return None, [None] * len(context)
        current = fold(getattr(network, "module", network)) if looks and self.looker == "current" else None
        names, logits, codes = (self.focus,) if looks else (), [], []
        for first in range(0, len(context), self.config.saliency.batch_size):
            chunk = slice(first, first + self.config.saliency.batch_size)
            video = as_input(context[chunk], self.device)
            known = tuple(values[chunk] for values in targets) if self.focus == "cross_entropy" else None
            if current is not None and self.fusion == "late":
                logits.append(saliency_maps(self.base, video, (), self.config, None)[0])
            found, maps = saliency_maps(current or self.base, video, names, self.config, known)
            if current is None:
                logits.append(found)
            codes += [quantise(one)[0] for one in maps[self.focus].cpu().numpy()] if looks else [None] * len(video)
        return torch.cat(logits) if self.fusion == "late" else None, codes

    def _cut(self, clip: Clip, frames: dict[int, np.ndarray], frames_input: np.ndarray, codes) -> np.ndarray:
        """The focused volume of one clip, uint8 (T, H_in, W_in, 3)."""
        if self.focus == "repeat":
            return frames_input
        box, _ = find_box(self.config, clip, self.focus, codes)
        if self.pixels == "input":
            return np.stack([cut_input(frame, box, clip.theta.input_size) for frame in frames_input])
        cut = {index: cut_source(frame, clip.theta, box, clip.theta.input_size) for index, frame in frames.items()}
        return np.stack([cut[index] for index in clip.frame_indices])
