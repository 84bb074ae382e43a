"""Scores of evaluation clips: Base's from its stored logits, a fusion model's by running it, shared among processes."""

import numpy as np
import torch

from models.backbones import build
from models.fusion import clip_scores
from pipeline.errors import StageError
from pipeline.run import generations
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights, load_base, load_trained
from pipeline.run.stores import open_base
from pipeline.training.cached_volumes import Volumes
from pipeline.training.fusion_step import fusion_logits
from pipeline.workers import phases
from pipeline.workers.device import cpu_threads, pick_device
from pipeline.workers.distributed import own_team
from pipeline.workers.prefetch import buffered
from pipeline.workers.progress import progress


def looking(workspace: Workspace, base: BaseWeights, model, boxes: str) -> tuple[Workspace, BaseWeights]:
    """Whose boxes a model is evaluated with, and the caches that hold them: Base's, in the run; or its own, where its
    training boxes came from the current network, and other ones are not asked for.

    Raises:
        StageError: there are none of its own yet.
    """
    if model is None or model[1].get("looker", "base") == "base" or boxes != model[1]["boxes_train"]:
        return workspace, base
    there = generations.evaluation_of(workspace, model[0], boxes)
    if not generations.started(there):
        raise StageError(f"{model[0]}: it has not looked at the evaluation videos yet; repeat the train-fusion command")
    return there, load_base(there)


def scores_by_video(workspace: Workspace, base: BaseWeights, model, facts: dict, ids: set[str]) -> tuple[dict, dict]:
    """By video id: scores of its clips, float32 (clips, C), and the classes seen in its windows, uint8 (C,).

    The same in each of several processes, and to the bit what one process alone finds: on the CPU, each computes in
    `saliency.threads` threads, for their number changes last digits as well.
    """
    by_clip: dict[str, list] = {}
    windowed: dict[str, list] = {}
    clips = _fusion_scores(workspace, base, model, facts, ids) if model else _base_scores(workspace, base)
    with cpu_threads(pick_device(workspace.config), workspace.config.saliency.threads):
        for part, row, scores in clips:
            video_id = part.rows.video_id.iat[row]
            by_clip.setdefault(video_id, []).append(scores)
            seen = workspace.annotations.frame_targets(video_id, workspace.frame_times(part, row))
            windowed.setdefault(video_id, []).append(seen.max(0))
    return (
        {video_id: np.stack(rows) for video_id, rows in by_clip.items()},
        {video_id: np.max(rows, axis=0) for video_id, rows in windowed.items()},
    )


def _base_scores(workspace: Workspace, base: BaseWeights):
    """(part, row, scores (C,)) of every evaluation clip, from the stored logits."""
    for part in workspace.parts_of("test"):
        store = open_base(workspace, part, base.sha256, base.out_frames, base.num_classes)
        if store.product.todo():
            raise StageError(f"{part.name}: Base's logits are not complete; run saliency first")
        rows = np.flatnonzero(store.product.rows_done())
        logits = torch.from_numpy(store.read_rows("logits", rows))
        for row, scores in zip(rows, clip_scores(logits).numpy(), strict=True):
            yield part, int(row), scores


def _fusion_scores(workspace: Workspace, base: BaseWeights, model, facts: dict, ids: set[str]):
    """(part, row, scores (C,)) of every evaluation clip of a fusion model; Base's branch comes from the cache.

    A process takes every size-th batch, whole, for the last digits of a score depend on the clips beside it. A sum over
    processes is exact, where all but one have 0.
    """
    folder, trained = model
    device = pick_device(workspace.config)
    network = build(workspace.config.base.network, base.num_classes)
    load_trained(network, folder, trained["weights"])
    network.to(device).eval()
    there, looker = looking(workspace, base, model, facts["boxes_eval"])
    own = there is workspace  # Base has looked: everything is in the run's caches
    volumes = Volumes(workspace, base, "test", facts["fusion"], facts["boxes_eval"] if own else None, facts["pixels"])
    focused = volumes if own else Volumes(there, looker, "test", "late", facts["boxes_eval"], facts["pixels"])
    places = [place for video_id, rows in volumes.places().items() if video_id in ids for place in rows]
    size, team = workspace.config.fusion.batch_size, own_team()
    batches = [places[first : first + size] for first in range(0, len(places), size)]
    found = torch.zeros(len(places), base.num_classes)
    mine = range(team.rank, len(batches), team.size)
    reading = buffered((number, (focused.focus(batches[number]), *volumes.rest(batches[number]))) for number in mine)
    for number, values in progress(reading, len(mine), f"evaluate {facts['experiment']}", "batches"):
        batch = batches[number]
        with phases.settled("transfer", device):
            values = tuple(value.to(device) for value in values)
        with phases.settled("network", device), torch.inference_mode():
            logits = fusion_logits(network, values, facts["fusion"], trained["recipe"]["fuse"])
        found[number * size :][: len(batch)] = clip_scores(logits).cpu()
    for place, scores in zip(places, team.sum(found).numpy(), strict=True):
        yield volumes.parts[place.part], place.row, scores
