"""Freshly augmented clips of the training videos, for Base."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn

from models.i3d import as_input
from models.losses import LossTerms, charades_loss
from pipeline.config import Config
from pipeline.data.clips import (
    PlannedVideo,
    check_unchanged,
    decode_frames,
    overlapping,
    resize_frames,
    training_videos,
)
from pipeline.data.pixels import crop_and_flip
from pipeline.data.sampling import frame_indices, resized_size, row_generator, train_theta, train_window
from pipeline.data.video.find import video_folder
from pipeline.run.folder import RunFolder
from pipeline.workers import phases
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import in_directory


class BaseBatch(NamedTuple):
    """Some clips as Base sees them."""

    clips: Tensor  # V_in, uint8 (B, T, H_in, W_in, 3)
    video_targets: Tensor  # float32 (B, C)
    frame_targets: Tensor  # float32 (B, T, C)


class BaseClips:
    """One freshly augmented clip per training video and epoch.

    Window, crop and flip depend on seed, video and epoch alone: neither workers nor resuming change them.
    With `base.in_memory` all videos are decoded once, and their resized frames held.

    Raises:
        VideoChanged: a video is not the one that was prepared.
    """

    def __init__(self, run: RunFolder, config: Config):
        self.annotations, self.config = run.annotations, config
        self.videos = training_videos(run.parts, video_folder(config.data))
        self.held = None
        if config.base.in_memory and config.base.epochs:
            self.held = self._hold()
        elif config.base.loader_workers:  # they are forked for every epoch, and inherit what this process has compared
            for video in self.videos:
                check_unchanged(video)

    def load(self, epoch: int, numbers: list[int]) -> BaseBatch:
        """Make the clips of these videos."""
        volumes, times = zip(*(self._clip(epoch, number) for number in numbers), strict=True)
        targets = self.annotations.targets([self.videos[number].video_id for number in numbers], times)
        return BaseBatch(torch.from_numpy(np.stack(volumes)), *map(torch.from_numpy, targets))

    def loss(self, network: nn.Module, batch: BaseBatch) -> Tensor:
        """Return the training loss of paper 5.2."""
        logits = network(as_input(batch.clips, batch.clips.device)).float()
        terms = LossTerms.of(self.config.base, self.config.data.task)
        return charades_loss(logits, batch.video_targets, batch.frame_targets, terms)

    def _clip(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return V_in of one video in one epoch, and the times of its frames in seconds."""
        video, clips = self.videos[number], self.config.clips
        rng = row_generator(self.config.seed, f"{video.video_id} base", 0, epoch)
        start = train_window(video.num_frames, clips.num_frames, rng)
        theta = train_theta(video.source_size, clips, rng)
        indices = frame_indices(start, clips.num_frames, video.num_frames)
        if self.held is not None:
            frames = self.held[number][list(indices)]
        else:
            found = dict(resize_frames(decode_frames(video, indices), theta.resized_size))
            frames = np.stack([found[index] for index in indices])
        with phases.phase("resize"):
            return crop_and_flip(frames, theta), self.annotations.seconds(video.video_id, indices, video.fps)

    def _hold(self) -> list[np.ndarray]:
        """Decode and resize every training video, uint8 (N, h, w, 3) each."""
        owner, clips = phases.profiler_id(), self.config.clips
        decode = delayed(in_directory(phases.profile_worker))
        sizes = (resized_size(video.source_size, clips) for video in self.videos)
        every = [(video, range(video.num_frames)) for video in self.videos]
        later = (overlapping(video, all_of[-1], every[place + 1 :]) for place, (video, all_of) in enumerate(every))
        jobs = zip(self.videos, sizes, later, strict=True)
        calls = (decode(owner, partial(_resized_video, *one)) for one in jobs)
        found = phases.timed_items("idle", Parallel(n_jobs=self.config.workers, return_as="generator")(calls))
        held = []
        for frames, seconds in progress(found, len(self.videos), "train-base, reading", "videos"):
            phases.add_worker(seconds)
            held.append(frames)
        return held


def _resized_video(video: PlannedVideo, size: tuple[int, int], later: list) -> np.ndarray:
    """Return all frames of a video after the resize, uint8 (N, h, w, 3); `later` as in `decode_frames`."""
    return np.stack([frame for _, frame in resize_frames(decode_frames(video, range(video.num_frames), later), size)])
