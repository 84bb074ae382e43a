"""The caches as training and evaluation read them: logits, context and focused volumes of clips, in batches."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache.plan import Part
from pipeline.config import Focus, Fusion, Pixels
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights
from pipeline.run.stores import open_base, open_context, open_crops
from pipeline.training.loader import Batch
from pipeline.workers import phases


@dataclass(frozen=True)
class Place:
    """One row of the plan: the number of its part among those opened, and the local row."""

    part: int
    row: int


class Volumes:
    """What one fusion reads of one split.

    Args:
        workspace: the run.
        base: whose logits, maps and boxes.
        split: "train" or "test".
        fusion: "late" reads Base's logits, "concat" the context volumes.
        focus: which boxes the second volume shows, or "repeat"; None where it comes from elsewhere (`rest`).
        pixels: where its pixels are from.
    Raises:
        StageError: a stage before this one has not finished.
    """

    def __init__(
        self, workspace: Workspace, base: BaseWeights, split: str, fusion: Fusion, focus: Focus | None, pixels: Pixels
    ):
        self.workspace, self.fusion = workspace, fusion
        self.parts = workspace.parts_of(split)
        self.second = [self._second(part, base, focus, pixels) for part in self.parts] if focus else []
        self.context = [open_context(workspace, part) for part in self.parts] if fusion == "concat" else []
        stores = [open_base(workspace, part, base.sha256, base.out_frames, base.num_classes) for part in self.parts]
        needed = list(zip(stores, self.second or stores, self.context or stores, strict=True))
        for part, of_part in zip(self.parts, needed, strict=True):
            _require_done(part, of_part)
        self.done = [np.logical_and.reduce([store.product.rows_done() for store in of_part]) for of_part in needed]
        self.logits = [_all_logits(store) for store in stores] if fusion == "late" else []

    def _second(self, part: Part, base: BaseWeights, focus: Focus, pixels: Pixels):
        if focus == "repeat":
            return open_context(self.workspace, part)
        return open_crops(self.workspace, part, base.sha256, focus, pixels)

    def places(self) -> dict[str, list[Place]]:
        """Rows of every video that no stage left out, in the order of augmentation or clip, by video id."""
        found: dict[str, list[tuple]] = {}
        for number, part in enumerate(self.parts):
            columns = (part.rows.video_id, part.rows.aug_index, part.rows.clip_index)
            for row, (video_id, aug, clip) in enumerate(zip(*columns, strict=True)):
                if self.done[number][row]:
                    found.setdefault(video_id, []).append((aug, clip, Place(number, row)))
        return {
            video_id: [place for *_, place in sorted(rows, key=lambda row: row[:2])] for video_id, rows in found.items()
        }

    def load(self, places: list[Place]) -> Batch:
        """A batch: focused volumes uint8 (B, T, S, S, 3), then Base's logits float32 (B, T_out, C) or context
        volumes like the focused ones, then labels float32 (B, C) of videos and (B, T, C) of frames."""
        return self.focus(places), *self.rest(places)

    def focus(self, places: list[Place]) -> Tensor:
        """The focused volumes of a batch; see `load`."""
        with phases.phase("decode"):
            return torch.from_numpy(np.stack([self.second[place.part].volume(place.row) for place in places]))

    def rest(self, places: list[Place]) -> Batch:
        """A batch without its focused volumes; see `load`."""
        if self.fusion == "late":
            other = np.stack([self.logits[place.part][place.row] for place in places])
        else:
            with phases.phase("decode"):
                other = np.stack([self.context[place.part].volume(place.row) for place in places])
        targets = [self.workspace.targets(self.parts[place.part], [place.row]) for place in places]
        video, frames = (np.concatenate(values) for values in zip(*targets, strict=True))
        return tuple(torch.from_numpy(values) for values in (other, video, frames))


def _require_done(part: Part, stores: tuple) -> None:
    for store in stores:
        todo = store.product.todo()
        if todo:
            stage = "saliency" if store.product.product in ("base", "maps") else "crops"
            raise StageError(
                f"{part.name}: {len(todo)} of {part.num_units} units of {store.product.product} are not done "
                f"({store.product.path}); run {stage} first"
            )


def _all_logits(store) -> np.ndarray:
    """Base's logits of every row of a part, float32 (rows, T_out, C); NaN where a video was left out."""
    done = store.product.rows_done()
    values = np.full(store.arrays["logits"].shape, np.nan, np.float32)
    values[done] = store.read_rows("logits", np.flatnonzero(done))
    return values
