"""Stage 3 on the fly, as the paper did it: decode, look, cut from the source and train in one step; no cache is read.

One decode of a clip gives V_in and the focused volume; where Base looks, one forward pass gives its logits and its
saliency. What looks and what cuts are the functions of stages 1 and 2, so that with Base looking, a plan of as many
augmentations as epochs and a lossless codec, both ways train on the same bytes.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from cache.records import Clip
from models.box_search import quantise
from models.fold import fold
from models.i3d import as_input
from pipeline import profile
from pipeline.base import BaseWeights, build_base, load_base
from pipeline.clips import TrainVideo, train_videos
from pipeline.config import OBJECTIVES, Config
from pipeline.device import pick_device
from pipeline.distributed import joined
from pipeline.fusion_model import common_facts, model_folder, write_model
from pipeline.fusion_step import fusion_loss
from pipeline.policies import Focus, Fusion, Pixels, find_box, saliency_maps
from pipeline.sampling import frame_indices, train_clip
from pipeline.training import Batch, fit
from pipeline.transforms import apply_theta, cut_input, cut_source
from pipeline.video import read_frames
from pipeline.workspace import Outcome, StageError, Workspace, clip_settings

Looker = Literal["base", "current"]


def run(
    config: Config,
    run_dir: Path,
    fusion: Fusion = "late",
    focus: Focus = "entropy",
    pixels: Pixels = "source",
    looker: Looker = "base",
) -> Outcome:
    """Train one fusion model from Base's weights with nothing stored; see `train_fusion.run` for what it learns.

    Epoch e draws augmentation e of every video, as a plan with that many would. Reads the plan (which videos), the
    labels, Base's weights and the videos. Writes models/<name>-online-<looker>-<key>/.

    Args:
        looker: whose gradient says where to look: Base's, or that of the network as it is in this step. That is the
            trainable branch on V_in (late), or the network on V_in alone (concat); in eval mode. Base's logits of
            late fusion are always Base's.
    Raises:
        StageError: Base is not trained, there is no training video, or `focus` looks at no network that could be
            current.
        VideoError: a video cannot be decoded any more.
    """
    if looker == "current" and focus not in OBJECTIVES:
        raise StageError(f"boxes {focus} look at no network, so they cannot be those of the current one")
    device = pick_device(config)
    with joined(device) as team:
        workspace = Workspace(run_dir, config)
        base = load_base(workspace)
        facts = model_facts(workspace, base, fusion, focus, pixels, looker)
        folder = model_folder(workspace, facts)
        if (folder / "model.json").exists():
            return Outcome(folder, "already trained")
        online = Online(workspace, base, fusion, focus, pixels, looker, device)
        if not online.videos:
            raise StageError("the plan has no training video; check the split in the annotations")
        torch.manual_seed(config.seed)
        network = build_base(workspace, base).to(device)
        label, count = f"train-fusion {facts['name']}", len(online.videos)
        fit(network, online.load, count, online.loss, config.fusion, folder, config.seed, device, label)
        return write_model(folder, network, facts, count, team, config)


def model_facts(
    workspace: Workspace, base: BaseWeights, fusion: Fusion, focus: Focus, pixels: Pixels, looker: Looker
) -> dict:
    """Everything an online model is made from: plain JSON, the source of its key."""
    facts = common_facts(workspace, base, fusion, focus, pixels)
    facts["name"] += f"-online-{looker}"
    facts |= {"looker": looker, "saliency": asdict(workspace.config.saliency), "clips": clip_settings(workspace.config)}
    facts["boxes"] = {} if focus == "repeat" else {"policy": focus, "size": [workspace.config.saliency.box_side] * 2}
    return json.loads(json.dumps(facts))


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
            with profile.phase("resize"):
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
        with profile.phase("resize"):
            volumes = np.stack([self._cut(*one) for one in parts])
        with profile.settled("transfer", self.device):
            focus = torch.from_numpy(volumes).to(self.device, non_blocking=True)
        return focus, logits if self.fusion == "late" else context, video_targets, frame_targets

    def _decode(self, video: TrainVideo, epoch: int) -> tuple[Clip, dict[int, np.ndarray]]:
        """Augmentation `epoch` of a video and its source frames, each decoded once."""
        clips = self.config.clips
        start, theta = train_clip(clips, video.video_id, epoch, video.num_frames, video.source_size)
        indices = frame_indices(start, clips.num_frames, video.num_frames)
        rate, source_fps = clips.fps or None, self.config.data.source_fps or None
        wanted = sorted(set(indices))
        with profile.phase("decode"):
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
