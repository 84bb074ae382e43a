"""The caches as training and evaluation read them: logits, context and focused volumes of clips, in batches."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cache.plan import Part
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ZarrStore
from pipeline.errors import StageError
from pipeline.run.fusion_models import Variant
from pipeline.run.stores import Stores
from pipeline.training.fusion_step import FusionBatch
from pipeline.workers import phases


class Place(NamedTuple):
    """One row of the plan."""

    part: int  # its number among `CachedVolumes.parts`
    row: int  # local row


class CachedVolumes:
    """What a fusion model reads of one split: focused volumes, and Base's logits (late) or context volumes (concat).

    Args:
        with_focused: False where focused volumes come from elsewhere (see `rest`).
    Raises:
        StageError: a stage before this one has not finished.
    """

    def __init__(self, stores: Stores, split: str, variant: Variant, with_focused: bool = True):
        self.annotations, self.fusion = stores.run.annotations, variant.fusion
        self.parts = stores.run.parts_of(split)
        self.focused_stores = [_focused(stores, part, variant) for part in self.parts] if with_focused else []
        self.context = [stores.context(part) for part in self.parts] if self.fusion == "concat" else []
        base = [stores.base(part) for part in self.parts]
        needed = list(zip(base, self.focused_stores or base, self.context or base, strict=True))
        for store in (store for of_part in needed for store in of_part):
            _require_done(store)
        self.done = [np.logical_and.reduce([store.product.rows_done() for store in of_part]) for of_part in needed]
        self.logits = [_all_logits(store) for store in base] if self.fusion == "late" else []

    def places(self) -> dict[str, list[Place]]:
        """Return the rows of every video that no stage left out, in the order of augmentation or clip, by video id."""
        found: dict[str, list[tuple]] = {}
        for number, part in enumerate(self.parts):
            columns = (part.rows.video_id, part.rows.aug_index, part.rows.clip_index)
            for row, (video_id, *order) in enumerate(zip(*columns, strict=True)):
                if self.done[number][row]:
                    found.setdefault(video_id, []).append((order, Place(number, row)))
        return {video_id: [place for _, place in sorted(rows)] for video_id, rows in found.items()}

    def load(self, places: list[Place]) -> FusionBatch:
        """Read a batch."""
        return FusionBatch(self.focused(places), *self.rest(places))

    def focused(self, places: list[Place]) -> Tensor:
        """Read the focused volumes of a batch, uint8 (B, T, S, S, 3); of k boxes (B, k, T, S, S, 3)."""
        return _volumes(self.focused_stores, places)

    def rest(self, places: list[Place]) -> tuple[Tensor, Tensor, Tensor]:
        """Read a batch without its focused volumes: the other fields of FusionBatch."""
        if self.fusion == "late":
            first_look = torch.from_numpy(np.stack([self.logits[place.part][place.row] for place in places]))
        else:
            first_look = _volumes(self.context, places)
        targets = [self.annotations.clip_targets(self.parts[place.part], [place.row]) for place in places]
        video, frames = (torch.from_numpy(np.concatenate(values)) for values in zip(*targets, strict=True))
        return first_look, video, frames


def _focused(stores: Stores, part: Part, variant: Variant) -> VolumeStore:
    if variant.boxes == "repeat":
        return stores.context(part)
    return stores.crops(part, variant.boxes, variant.pixels)


def _volumes(stores: list[VolumeStore], places: list[Place]) -> Tensor:
    with phases.phase("decode"):
        return torch.from_numpy(np.stack([stores[place.part].volume(place.row) for place in places]))


def _require_done(store: ZarrStore | VolumeStore) -> None:
    product, part = store.product, store.part
    if todo := product.todo():
        stage = "saliency" if product.product in ("base", "maps") else "crops"
        missing = f"{len(todo)} of {part.num_units} units of {product.product} are not done ({product.path})"
        raise StageError(f"{part.name}: {missing}; run {stage} first")


def _all_logits(store: ZarrStore) -> np.ndarray:
    """Read Base's logits of every row of a part, float32 (rows, T_out, C); NaN where a video was left out."""
    done = store.product.rows_done()
    values = np.full(store.arrays["logits"].shape, np.nan, np.float32)
    values[done] = store.read_rows("logits", np.flatnonzero(done))
    return values
