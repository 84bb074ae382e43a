"""Clips of training on the fly: decoded, searched for a box and cut in the training step."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cache.geometry import Box, Clip
from models.box_search import quantise
from models.frozen.fold import fold
from models.i3d import as_input
from models.losses import LossTerms
from models.motion import motion_maps
from models.objectives import Labels, MapKind, saliency_maps
from models.saliency import patch_embedding
from pipeline.box_settings import num_looks, num_segments
from pipeline.config import OBJECTIVES, Config, SaliencyFrom
from pipeline.data.box_policies import find_boxes
from pipeline.data.clips import (
    PlannedVideo,
    check_unchanged,
    decode_frames,
    focused_volumes,
    input_volume,
    training_videos,
)
from pipeline.data.own_boxes import read_own_boxes
from pipeline.data.sampling import frame_indices, train_clip
from pipeline.data.video.find import video_folder
from pipeline.run.closer_look import closer_boxes
from pipeline.run.folder import RunFolder
from pipeline.run.fusion_models import Variant
from pipeline.run.networks import BaseWeights, build_base
from pipeline.training.fusion_step import FusionBatch, fusion_loss
from pipeline.workers import phases


@dataclass(frozen=True)
class SourceFrames:
    """Source frames of a batch, which stay on the host, where boxes are cut.

    No named tuple: a DataLoader would make tensors of what it holds.
    """

    clips: list[Clip]
    frames: list[dict[int, np.ndarray]]  # of each clip: frame index -> uint8 (H, W, 3)
    seconds: list[tuple[float, float]]  # at which each clip begins and ends

    def to(self, *_, **__) -> "SourceFrames":
        """Stay here: the other parts of a batch are moved to the device."""
        return self


class OnlineBatch(NamedTuple):
    """Some clips before their boxes are known."""

    context: Tensor  # V_in, uint8 (B, T, H_in, W_in, 3)
    video_targets: Tensor  # float32 (B, C)
    frame_targets: Tensor  # float32 (B, T, C)
    source: SourceFrames


class OnlineClips:
    """Batches whose boxes are searched for when they are trained on.

    Args:
        variant: of the fusion model that is trained.
        saliency_from: the network whose gradient says where to cut.
    Raises:
        VideoChanged: a video is not the one that was prepared.
    """

    def __init__(
        self,
        run: RunFolder,
        config: Config,
        base: BaseWeights,
        variant: Variant,
        saliency_from: SaliencyFrom,
        device: torch.device,
    ):
        self.annotations, self.config, self.device = run.annotations, config, device
        self.variant, self.saliency_from = variant, saliency_from
        self.segments = num_segments(variant.boxes, config.saliency)
        self.videos = training_videos(run.parts, video_folder(config.data))
        if config.fusion.loader_workers:  # they are forked for every epoch, and inherit what this process has compared
            for video in self.videos:
                check_unchanged(video)
        self.own_boxes = read_own_boxes(Path(config.saliency.own_boxes)) if variant.boxes == "own" else None
        if self.own_boxes:
            sizes = {video.video_id: video.source_size for video in self.videos}
            self.own_boxes.check_videos(sizes, self.annotations.videos.video_id)
        self.base = fold(build_base(base)).to(device)
        if config.saliency.gradient_at == "patches":
            patch_embedding(self.base)  # refuses a network without one

    def load(self, epoch: int, numbers: list[int]) -> OnlineBatch:
        """Decode augmentation `epoch` of these videos."""
        videos = [self.videos[number] for number in numbers]
        clips, frames = zip(*(self._decode(video, epoch) for video in videos), strict=True)
        with phases.phase("resize"):
            context = np.stack([input_volume(*one) for one in zip(clips, frames, strict=True)])
        shown = ((clip.video_id, clip.frame_indices, video.fps) for clip, video in zip(clips, videos, strict=True))
        times = [self.annotations.seconds(*one) for one in shown]
        targets = self.annotations.targets([video.video_id for video in videos], times)
        seconds = [self.annotations.clip_seconds(clip, video.fps) for clip, video in zip(clips, videos, strict=True)]
        source = SourceFrames(list(clips), list(frames), seconds)
        return OnlineBatch(torch.from_numpy(context), *map(torch.from_numpy, targets), source)

    def loss(self, network: nn.Module, batch: OnlineBatch) -> Tensor:
        """Return the training loss of `train_fusion` on volumes that are cut now."""
        return fusion_loss(
            network, self.cut(network, batch), self.variant.fusion, self.config.fusion, self.config.data.task
        )

    def cut(self, network: nn.Module, batch: OnlineBatch) -> FusionBatch:
        """Find the boxes of a batch, with the network that is trained or with Base, and cut its focused volumes."""
        logits, evidence = self._maps(network, batch)
        context, source = batch.context.cpu().numpy(), batch.source
        if self.own_boxes:
            seen = zip(source.clips, source.seconds, strict=True)
            evidence = [self.own_boxes.evidence(clip, *time, self.segments) for clip, time in seen]
        boxes = self._boxes(network, source, evidence)
        with phases.phase("resize"):
            clips = zip(source.clips, source.frames, context, boxes, strict=True)
            volumes = np.stack([self._cut_clip(*one) for one in clips])
        with phases.device_phase("transfer", self.device):
            focused = torch.from_numpy(volumes).to(self.device, non_blocking=True)
        first_look = logits if self.variant.fusion == "late" else batch.context
        return FusionBatch(focused, first_look, batch.video_targets, batch.frame_targets)

    def _decode(self, video: PlannedVideo, epoch: int) -> tuple[Clip, dict[int, np.ndarray]]:
        """Return augmentation `epoch` of a video and its source frames, each decoded once."""
        clips = self.config.clips
        start, theta = train_clip(clips, video.video_id, epoch, video.num_frames, video.source_size)
        indices = frame_indices(start, clips.num_frames, video.num_frames)
        return Clip(video.video_id, 0, epoch, indices, theta), dict(decode_frames(video, indices))

    def _maps(self, network: nn.Module, batch: OnlineBatch) -> tuple[Tensor | None, list[np.ndarray | None]]:
        """Return Base's logits (late fusion; else None) and the quantised map of each clip (None without a map).

        In chunks of `saliency.batch_size`, as in stage 1, so that the last digits are the same.
        """
        objective, late, size = self.variant.boxes, self.variant.fusion == "late", self.config.saliency.batch_size
        names = (objective,) if objective in OBJECTIVES else ()
        if objective == "motion":
            maps = motion_maps(batch.context, self.config.saliency.time_segments)
            codes = [quantise(one)[0] for one in maps.cpu().numpy()]
        else:
            codes = [None] * len(batch.context)
        if not names and not late:
            return None, codes
        source = self._chooser(network) if names else self.base
        logits, found_codes = [], []
        for first in range(0, len(batch.context), size):
            chunk = slice(first, first + size)
            video = as_input(batch.context[chunk], self.device)
            labels = None
            if objective == "cross_entropy":
                targets = batch.video_targets[chunk], batch.frame_targets[chunk]
                labels = Labels(*targets, LossTerms.of(self.config.base, self.config.data.task))
            found, maps = self._saliency(source, video, names, labels)
            if late:
                logits.append(found if source is self.base else self._saliency(self.base, video, (), None)[0])
            found_codes += [quantise(one)[0] for one in maps[objective].cpu().numpy()] if names else []
        return torch.cat(logits) if late else None, found_codes or codes

    def _chooser(self, network: nn.Module) -> nn.Module:
        """Return the network whose gradient says where to cut."""
        return fold(getattr(network, "module", network)) if self.saliency_from == "current" else self.base

    def _boxes(
        self, network: nn.Module, source: SourceFrames, evidence: list[np.ndarray | list | None]
    ) -> list[list[Box]]:
        """Return the boxes of each clip; see `find_boxes` for the evidence, and `look_closer` for further looks."""
        policy, saliency = self.variant.boxes, self.config.saliency
        if policy == "repeat":
            return [[]] * len(source.clips)
        if num_looks(policy, saliency) > 1:
            seen = source.clips, source.frames, evidence
            found = closer_boxes(self._chooser(network), *seen, saliency, (policy, self.config.data.task))
            return [[box] for box in found]
        how, seeds = (policy, saliency), (self.config.clips.plan_seed, self.config.seed)
        clips = zip(source.clips, evidence, strict=True)
        return [[box for box, _ in find_boxes(clip, *how, seeds, one)] for clip, one in clips]

    def _saliency(self, network: nn.Module, video: Tensor, names: Iterable[str], labels: Labels | None):
        saliency, task = self.config.saliency, self.config.data.task
        how = MapKind.of(saliency), saliency.precision, labels, task
        return saliency_maps(network, video, names, *how)

    def _cut_clip(
        self, clip: Clip, frames: dict[int, np.ndarray], frames_input: np.ndarray, boxes: list[Box]
    ) -> np.ndarray:
        """Return the focused volumes of one clip; see `focused_volumes`."""
        if self.variant.boxes == "repeat":
            return frames_input
        return focused_volumes(clip, boxes, self.variant.pixels, frames, frames_input, self.segments)
