"""train-base: fine-tune a video network into Charades-Base (paper 5.2, 5.3), with new augmentations every epoch."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn

from models.backbones import build, head_names
from models.checkpoint import WeightsError, load_weights, state_hash
from models.i3d import as_input, inflate_2d
from models.losses import charades_loss
from pipeline import profile
from pipeline.base import count_out_frames
from pipeline.clips import TrainVideo, train_videos
from pipeline.config import Config
from pipeline.device import pick_device
from pipeline.distributed import Team, joined
from pipeline.progress import progress
from pipeline.provenance import write_provenance
from pipeline.sampling import frame_indices, row_generator, train_theta, train_window
from pipeline.site import here
from pipeline.trained import read_trained, write_trained
from pipeline.training import Batch, fit
from pipeline.transforms import crop_and_flip, resize
from pipeline.video import read_frames
from pipeline.workspace import Outcome, StageError, Workspace


def run(config: Config, run_dir: Path) -> Outcome:
    """Train Base on the training videos of the plan, or take `base.init` as it is where `base.epochs` is 0.

    Reads the plan, the labels, the videos and the weights file `base.init`. Writes models/base-<key>/: weights.pt,
    base.json (what it was made from), metrics.csv, checkpoints.

    Raises:
        StageError: there is no training video, or no training asked for and no weights given.
        WeightsError: `base.init` does not fit; names every key.
    """
    device = pick_device(config)
    with joined(device) as team:
        return _run(config, run_dir, device, team)


def _run(config: Config, run_dir: Path, device: torch.device, team: Team) -> Outcome:
    workspace = Workspace(run_dir, config)
    folder = workspace.base_folder
    if (folder / "base.json").exists():
        facts = read_trained(folder / "base.json")
        return Outcome(folder, f"already trained: {config.base.network}, weights {facts['weights'][:12]}")
    if not config.base.epochs and not config.base.init:
        raise StageError("base.epochs is 0 and base.init names no weights: there is nothing to start from")
    torch.manual_seed(config.seed)
    network = build(config.base.network, len(workspace.annotations.classes))
    left_out = []
    if config.base.init:
        inflate = partial(inflate_2d, network=network) if config.base.inflate else None
        new_head = config.base.new_head or config.base.inflate  # ImageNet's classes are other ones
        try:
            left_out = load_weights(network, config.base.init, head_names(network), new_head, inflate)
        except WeightsError as error:
            classes = f"{len(workspace.annotations.classes)} classes in {run_dir / 'classes.txt'}"
            raise WeightsError(f"{error}\nThis run has {classes}, from {config.data.classes}.") from error
    clips = BaseClips(workspace)
    network.to(device)
    if config.base.epochs:
        if not clips.videos:
            raise StageError("the plan has no training video; check the split in the annotations")
        fit(network, clips.load, len(clips.videos), clips.loss, config.base, folder, config.seed, device, "train-base")
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    facts = {
        "network": config.base.network,
        "num_classes": len(workspace.annotations.classes),
        "out_frames": count_out_frames(network.cpu(), config.clips.num_frames, config.clips.input_side),
        "init_left_out": left_out,
        "num_videos": len(clips.videos),
        "labels_sha256": workspace.labels_sha256,
        "plan": {part.name: part.rows_sha256 for part in workspace.parts_of("train")},
    }
    if team.leads:
        write_provenance(folder, config, state_hash(state), device, team.size)
        write_trained(folder / "base.json", state, facts)
    team.wait()
    weights = read_trained(folder / "base.json")["weights"]
    summary = f"{config.base.network}, {config.base.epochs} epochs on {len(clips.videos)} videos"
    return Outcome(folder, f"{summary}; weights {weights[:12]}; new: {', '.join(left_out) or 'nothing'}")


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
        with profile.phase("resize"):
            return crop_and_flip(frames, theta), np.array(indices) / video.fps

    def _hold(self) -> list[np.ndarray]:
        """Resized frames of every training video, uint8 (N, h, w, 3) each."""
        owner = profile.owner()
        calls = (delayed(here(profile.lent))(owner, partial(_hold_one, self.config, video)) for video in self.videos)
        found = profile.each("idle", Parallel(n_jobs=self.config.workers, return_as="generator")(calls))
        held = []
        for frames, seconds in progress(found, len(self.videos), "train-base, reading", "videos"):
            profile.collect(seconds)
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
    for index, frame in profile.each("decode", read_frames(video.path, indices, rate, video.timing, source_fps)):
        with profile.phase("resize"):
            found[index] = resize(frame, size)
    return found
