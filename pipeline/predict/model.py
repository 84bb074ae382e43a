"""The networks of an experiment: a batch of windows to scores and boxes, with the functions of the stages."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cache.geometry import Box, Clip
from models.box_search import quantise
from models.frozen.fold import fold
from models.fusion import clip_logits
from models.i3d import as_input
from models.looker import Looker, block_features
from models.motion import motion_maps
from models.objectives import MapKind, objectives_of, saliency_maps
from models.precision import tf32
from pipeline.box_settings import box_axis, num_looks, num_segments
from pipeline.config import MAPS
from pipeline.data.box_policies import find_boxes
from pipeline.data.clips import focused_volumes
from pipeline.data.own_boxes import OwnBoxes
from pipeline.predict.settings import Settings
from pipeline.predict.windows import Window
from pipeline.run.closer_look import closer_boxes
from pipeline.run.fusion_models import TrainedModel
from pipeline.run.looker_weights import load_looker
from pipeline.run.networks import BaseWeights, build_base, build_trained
from pipeline.training.fusion_step import FusionBatch, fusion_logits
from pipeline.workers import phases
from pipeline.workers.device import cpu_threads, pick_device

Item = TypeVar("Item")


class Seen(NamedTuple):
    """What the networks saw in one window."""

    clip: Clip
    start: float  # seconds
    end: float
    logits: np.ndarray  # float32 (C,), the mean over time
    entropy: float  # of Base, -sum p log p, nats
    boxes_source: list[Box]
    # the map that chose the box, uint16 (H_in, W_in), of several segments of time one each; None where none was needed
    saliency: np.ndarray | None


class FirstLook(NamedTuple):
    """A window after Base has seen it; its source frames are not needed any more."""

    seen: Seen  # with Base's logits
    # uint8 (T, H_in, W_in, 3), of k boxes (k, T, H_in, W_in, 3); None for Base alone, and where it is sure
    focused: np.ndarray | None
    context: np.ndarray  # V_in, uint8 (T, H_in, W_in, 3)
    logits: Tensor  # Base's, float32 (T_out, C)


class Model:
    """The networks of an experiment on a device.

    Args:
        base: Base, in eval mode.
        second: the fusion network; None for Base alone.
        looker: the head that predicts where to look; None where a gradient says it.
        device: torch name, or "auto".
    """

    own_boxes: OwnBoxes | None = None  # where the second network looks, where they are given
    look_above: float | None = None  # a second look only where Base's entropy, nats, is above; None: always

    def __init__(
        self,
        settings: Settings,
        base: nn.Module,
        second: nn.Module | None,
        device: str = "auto",
        looker: Looker | None = None,
    ):
        self.settings, self.device = settings, pick_device(device)
        self.base = fold(base).to(self.device)
        self.second = second and second.to(self.device).eval()
        self.looker = looker and looker.to(self.device)
        self.chooser = fold(second).to(self.device) if settings.saliency_from == "current" else self.base

    def look(self, windows: Iterable[Window], size: int) -> Iterator[Seen]:
        """Pass windows through the networks as they come, Base in batches of `size`, the second as at evaluation.

        A clip's last digits depend on those beside it: the same windows in the same order give the same bits.
        """
        looked = (one for batch in batches(windows, size) for one in self._first_look(batch))
        if self.second is None:
            yield from (one.seen for one in looked)
        else:
            yield from self._second_looks(looked)

    def _second_looks(self, looked: Iterable[FirstLook]) -> Iterator[Seen]:
        """Yield all windows in their order, those of which Base is sure as it has seen them."""
        waiting: list[FirstLook] = []
        unsure: list[FirstLook] = []

        def done() -> Iterator[Seen]:
            found = iter(self._second_look(unsure) if unsure else ())
            yield from (one.seen if one.focused is None else next(found) for one in waiting)

        for one in looked:
            waiting.append(one)
            unsure += [] if one.focused is None else [one]
            if len(unsure) == self.settings.batch_size:
                yield from done()
                waiting, unsure = [], []
        yield from done()

    def _first_look(self, windows: list[Window]) -> list[FirstLook]:
        """Compute Base's logits, find the boxes, and cut the focused volumes."""
        with cpu_threads(self.device, self.settings.saliency.threads), torch.no_grad():
            with phases.device_phase("transfer", self.device):
                video = as_input(torch.from_numpy(np.stack([window.pixels for window in windows])), self.device)
            negative_entropy = objectives_of(self.settings.task)["entropy"]
            with phases.device_phase("network", self.device):
                if self.look_above is None or self.second is None:
                    logits, maps = self._logits_and_maps(video)
                    entropy = -negative_entropy(logits)
                    unsure = torch.ones_like(entropy, dtype=torch.bool)
                else:
                    logits = self._compute(self.base, video, ())[0]
                    entropy = -negative_entropy(logits)
                    unsure = entropy > self.look_above
                    maps = self._logits_and_maps(video[unsure])[1] if unsure.any() else None
            scores, entropy = clip_logits(logits).cpu().numpy(), entropy.cpu().numpy()
            if self.settings.policy == "motion" and unsure.any():
                clips = torch.from_numpy(np.stack([window.pixels for window in windows]))[unsure.cpu()]
                maps = motion_maps(clips, self.settings.saliency.time_segments)
            codes = iter(() if maps is None else [quantise(one)[0] for one in maps.cpu().numpy()])
            return [
                self._cut(*one, next(codes, None)) if look else self._sure(*one)
                for look, *one in zip(unsure.tolist(), windows, logits, scores, entropy, strict=True)
            ]

    def _compute(self, network: nn.Module, video: Tensor, names: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute logits and maps as the run's settings say."""
        saliency = self.settings.saliency
        how = MapKind.of(saliency), saliency.precision, None, self.settings.task
        return saliency_maps(network, video, names, *how)

    def _logits_and_maps(self, video: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return Base's logits, float32 (B, T_out, C), and the maps that choose the boxes, (B, H_in, W_in)."""
        objective = self.settings.objective
        if self.looker:
            with block_features(self.base) as features:
                logits = self._compute(self.base, video, ())[0]
            return logits, self.looker.maps(features(), video.shape[2:4])
        if objective is None:
            return self._compute(self.base, video, ())[0], None
        logits, maps = self._compute(self.chooser, video, (objective,))
        return logits if self.chooser is self.base else self._compute(self.base, video, ())[0], maps[objective]

    def _cut(
        self, window: Window, logits: Tensor, scores: np.ndarray, entropy: float, codes: np.ndarray | None
    ) -> FirstLook:
        """Find the boxes of one window and cut its focused volumes."""
        settings, clip, focused = self.settings, window.clip, None
        segments = num_segments(settings.policy, settings.saliency)
        own = self.own_boxes.evidence(clip, window.start, window.end, segments) if self.own_boxes else []
        policy, evidence = ("own", own) if any(own) else (settings.policy, codes)
        if num_looks(policy, settings.saliency) > 1:
            seen = [clip], [window.frames], [codes]
            boxes = closer_boxes(self.chooser, *seen, settings.saliency, (policy, settings.task))
        else:
            boxes = [box for box, _ in find_boxes(clip, policy, settings.saliency, settings.seeds, evidence)]
        if self.second is not None:
            focused = window.pixels
            if settings.boxes != "repeat":
                with phases.phase("resize"):
                    focused = focused_volumes(clip, boxes, settings.pixels, window.frames, window.pixels, segments)
        boxes_source = [clip.theta.to_source(box) for box in boxes]
        seen = Seen(clip, window.start, window.end, scores, float(entropy), boxes_source, codes)
        return FirstLook(seen, focused, window.pixels, logits)

    def _sure(self, window: Window, logits: Tensor, scores: np.ndarray, entropy: float) -> FirstLook:
        """Return a window that is not looked at twice; its boxes are all that the network sees, its map is empty."""
        theta = window.clip.theta
        count = math.prod(box_axis(self.settings.policy, self.settings.saliency).values())
        boxes_source = [theta.to_source(Box(0, 0, *theta.input_size))] * count
        codes = np.zeros(theta.input_size, np.uint16) if self.settings.policy in MAPS else None
        seen = Seen(window.clip, window.start, window.end, scores, float(entropy), boxes_source, codes)
        return FirstLook(seen, None, window.pixels, logits)

    def _second_look(self, looked: list[FirstLook]) -> list[Seen]:
        """Compute the scores of both networks together."""
        with cpu_threads(self.device, self.settings.saliency.threads), torch.inference_mode(), tf32(False):
            with phases.device_phase("transfer", self.device):
                focused = torch.from_numpy(np.stack([one.focused for one in looked])).to(self.device)
                if self.settings.fusion == "late":
                    first_look = torch.stack([one.logits for one in looked])
                else:
                    first_look = torch.from_numpy(np.stack([one.context for one in looked])).to(self.device)
            with phases.device_phase("network", self.device):
                batch = FusionBatch(focused, first_look, None, None)
                how = self.settings.fusion, self.settings.fuse, self.settings.task, self.settings.pool_boxes
                logits = fusion_logits(self.second, batch, *how)
            scores = clip_logits(logits).cpu().numpy()
        return [one.seen._replace(logits=own) for one, own in zip(looked, scores, strict=True)]


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items as they come, the last one perhaps shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def build_model(settings: Settings, base: BaseWeights, trained: TrainedModel | None, device: str) -> Model:
    """Build the networks of an experiment as `settings.of_run` describes it."""
    second = trained and build_trained(base, trained.folder, trained.weights, settings.second_frames)
    looker = settings.policy == "looker" and load_looker(base.folder.parent / settings.looker)
    return Model(settings, build_base(base), second, device, looker or None)
