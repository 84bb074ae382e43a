"""Scores of evaluation clips: Base's from its stored logits, a fusion model's by running it, shared among processes."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from cache.plan import Part
from models.fusion import clip_logits
from models.precision import tf32
from pipeline.box_settings import as_trained
from pipeline.config import Focus
from pipeline.errors import StageError
from pipeline.run.fusion_models import TrainedModel
from pipeline.run.generations import evaluation_of
from pipeline.run.networks import build_trained
from pipeline.run.stores import Stores
from pipeline.training.cached_volumes import CachedVolumes
from pipeline.training.fusion_step import FusionBatch, fusion_logits
from pipeline.training.loader import to_device
from pipeline.workers import phases
from pipeline.workers.device import cpu_threads, pick_device
from pipeline.workers.distributed import current_world
from pipeline.workers.prefetch import prefetch
from pipeline.workers.progress import progress

ClipScores = tuple[Part, int, np.ndarray]  # plan part, local row, logits float32 (C,)


def as_trained_stores(stores: Stores, model: TrainedModel | None) -> Stores:
    """Return the stores whose boxes are chosen by the rule that a model was trained with; for Base, by "fixed"."""
    saliency = as_trained(stores.config.saliency, model.boxes if model else {})
    own = model.boxes.get("own_boxes", "") if model else ""
    if saliency == stores.config.saliency and not own:
        return stores
    return Stores(stores.run, replace(stores.config, saliency=saliency), stores.base_weights, own)


def box_stores(stores: Stores, model: TrainedModel | None, boxes: Focus) -> Stores:
    """Return the stores with the boxes that a model is evaluated with.

    They are those of the run, made with Base, random ones those of the model's seed; where the model's training boxes
    came from the current network and the same policy is asked for, those of the model's own generation.

    Raises:
        StageError: the model has none of its own yet.
    """
    if model and boxes == "random" and model.seed != stores.config.seed:
        return Stores(stores.run, replace(stores.config, seed=model.seed), stores.base_weights)
    if model is None or model.saliency_from == "base" or boxes != model.variant.boxes:
        return stores
    generation = evaluation_of(model.folder, stores.config, boxes)
    if not generation.started:
        raise StageError(
            f"{model.folder}: it has no boxes of the evaluation videos yet; repeat the train-fusion command"
        )
    return generation.stores()


def left_out(stores: Stores, model: TrainedModel | None, boxes: Focus) -> set[str]:
    """Return the videos that a stage left out of what a model, None for Base, is scored on."""
    variant, source = None, stores
    if model:
        variant, source = model.variant._replace(boxes=boxes), box_stores(stores, model, boxes)
    return {one for part in stores.run.parts_of("test") for one in source.left_out(part, variant)}


def scores_by_video(
    stores: Stores, model: TrainedModel | None, boxes: Focus, ids: set[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Score every evaluation clip of some videos, by logits: a float32 sigmoid is 1.0 from a logit of 17 on.

    Every number of processes gives the same bits; on the CPU, each computes in `saliency.threads` threads for this.

    Returns:
        by video id: scores of its clips, float32 (clips, C), and the classes seen in its windows, uint8 (C,).
    """
    by_clip, windowed = {}, {}
    clips = _fusion_scores(stores, model, boxes, ids) if model else _base_scores(stores)
    with cpu_threads(pick_device(stores.config.device), stores.config.saliency.threads):
        for part, row, scores in clips:
            video_id = part.video_ids[row]
            by_clip.setdefault(video_id, []).append(scores)
            _, frames = stores.run.annotations.clip_targets(part, [row])
            windowed.setdefault(video_id, []).append(frames[0].astype(np.uint8).max(0))
    return (
        {video_id: np.stack(rows) for video_id, rows in by_clip.items()},
        {video_id: np.max(rows, axis=0) for video_id, rows in windowed.items()},
    )


def _base_scores(stores: Stores) -> Iterator[ClipScores]:
    """Score every evaluation clip from the stored logits."""
    for part in stores.run.parts_of("test"):
        store = stores.base(part)
        if store.product.todo():
            raise StageError(f"{part.name}: Base's logits are not complete; run saliency first")
        rows = np.flatnonzero(store.product.rows_done())
        logits = torch.from_numpy(store.read_rows("logits", rows))
        for row, scores in zip(rows, clip_logits(logits).numpy(), strict=True):
            yield part, int(row), scores


def _fusion_scores(stores: Stores, model: TrainedModel, boxes: Focus, ids: set[str]) -> Iterator[ClipScores]:
    """Score every evaluation clip with a fusion model; Base's branch comes from the cache.

    A process takes every size-th batch, whole, for the last digits of a score depend on the clips beside it. The sum
    over processes is exact, because all but one have 0.
    """
    config, device = stores.config, pick_device(stores.config.device)
    frames = model.num_frames(config.clips.num_frames)
    network = build_trained(stores.base_weights, model.folder, model.weights, frames).to(device).eval()
    variant, cut_from = model.variant._replace(boxes=boxes), box_stores(stores, model, boxes)
    volumes = CachedVolumes(stores, "test", variant, with_focused=cut_from is stores)
    focused = volumes
    if cut_from is not stores:  # a late variant reads no context volumes, which a generation does not have
        focused = CachedVolumes(cut_from, "test", variant._replace(fusion="late"))
    places = [place for video_id, rows in volumes.places().items() if video_id in ids for place in rows]
    size, world = config.fusion.batch_size, current_world()
    batches = [places[first : first + size] for first in range(0, len(places), size)]
    found = torch.zeros(len(places), stores.base_weights.num_classes)
    mine = range(world.rank, len(batches), world.size)
    reading = prefetch(FusionBatch(focused.focused(batches[one]), *volumes.rest(batches[one])) for one in mine)
    reading = progress(reading, len(mine), f"evaluate {model.name}", "batches")
    for number, batch in zip(mine, reading, strict=True):
        with phases.device_phase("transfer", device):
            batch = to_device(batch, device)
        with phases.device_phase("network", device), torch.inference_mode(), tf32(False):
            how = variant.fusion, model.fuse, config.data.task, model.pool_boxes
            logits = fusion_logits(network, batch, *how)
        found[number * size :][: len(logits)] = clip_logits(logits).cpu()
    for place, scores in zip(places, world.sum(found).numpy(), strict=True):
        yield volumes.parts[place.part], place.row, scores
