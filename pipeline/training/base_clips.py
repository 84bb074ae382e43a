"""Freshly augmented clips of the training videos, for Base."""

from functools import partial

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn

from models.i3d import as_input
from models.losses import charades_loss
from pipeline.config import Config
from pipeline.data.clips import TrainVideo, train_videos
from pipeline.data.pixels import crop_and_flip, resize
from pipeline.data.sampling import frame_indices, row_generator, train_theta, train_window
from pipeline.data.video.frames import read_frames
from pipeline.run.folder import Workspace
from pipeline.training.loader import Batch
from pipeline.workers import phases
from pipeline.workers.progress import progress
from pipeline.workers.shared_paths import here


class BaseClips:
    """One freshly augmented clip per training video and epoch.

    Window, crop and flip come from a generator of (seed, video, epoch): neither workers nor resuming change them.
    With `base.in_memory` the resized frames of all videos are decoded once and held, as uint8.
    """

    def __init__(self, workspace: Workspace):
        self.workspace, self.config = workspace, workspace.config
        self.videos = train_videos(workspace)
        self.held = self._hold() if self.config.base.in_memory and self.config.base.epochs else None

    def load(self, epoch: int, numbers: list[int]) -> Batch:
        """uint8 (B, T, H_in, W_in, 3), float32 (B, C) labels of the videos, float32 (B, T, C) of the frames."""
        clips = [self._clip(epoch, number) for number in numbers]
        ids = [self.videos[number].video_id for number in numbers]
        annotations = self.workspace.annotations
        frames = [annotations.frame_targets(video_id, times) for video_id, (_, times) in zip(ids, clips, strict=True)]
        return (
            torch.from_numpy(np.stack([volume for volume, _ in clips])),
            torch.from_numpy(annotations.video_targets(ids).astype(np.float32)),
            torch.from_numpy(np.stack(frames).astype(np.float32)),
        )

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The training loss of paper 5.2."""
        volumes, video_targets, frame_targets = batch
        logits = network(as_input(volumes, volumes.device)).float()
        return charades_loss(logits, video_targets, frame_targets, self.config.base.video_loss_weight)

    def _clip(self, epoch: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """V_in of one video in one epoch, and the times of its frames in seconds."""
        video, clips = self.videos[number], self.config.clips
        rng = row_generator(self.config.seed, f"{video.video_id} base", 0, epoch)
        start = train_window(video.num_frames, clips.num_frames, rng)
        theta = train_theta(video.source_size, clips.resize, clips.resized_side, clips.input_side, rng)
        indices = frame_indices(start, clips.num_frames, video.num_frames)
        if self.held is not None:
            frames = self.held[number][list(indices)]
        else:
            found = _resized(self.config, video, sorted(set(indices)), theta.resized_size)
            frames = np.stack([found[index] for index in indices])
        with phases.phase("resize"):
            return crop_and_flip(frames, theta), np.array(indices) / video.fps

    def _hold(self) -> list[np.ndarray]:
        """Resized frames of every training video, uint8 (N, h, w, 3) each."""
        owner = phases.owner()
        calls = (delayed(here(phases.lent))(owner, partial(_hold_one, self.config, video)) for video in self.videos)
        found = phases.each("idle", Parallel(n_jobs=self.config.workers, return_as="generator")(calls))
        held = []
        for frames, seconds in progress(found, len(self.videos), "train-base, reading", "videos"):
            phases.collect(seconds)
            held.append(frames)
        return held


def _hold_one(config: Config, video: TrainVideo) -> np.ndarray:
    clips = config.clips
    size = train_theta(
        video.source_size, clips.resize, clips.resized_side, clips.input_side, np.random.default_rng(0)
    ).resized_size
    found = _resized(config, video, list(range(video.num_frames)), size)
    return np.stack(list(found.values()))


def _resized(config: Config, video: TrainVideo, indices: list[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Resized frames by index, each decoded once."""
    rate, source_fps = config.clips.fps or None, config.data.source_fps or None
    found = {}
    for index, frame in phases.each("decode", read_frames(video.path, indices, rate, video.timing, source_fps)):
        with phases.phase("resize"):
            found[index] = resize(frame, size)
    return found
