"""Fusion of context and focused volume (paper, 4.3): two networks, or both volumes into one; logits to scores."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import Task


def late_fusion(
    base_logits: Tensor,
    focus_logits: Tensor,
    fuse: Literal["logits", "scores"] = "logits",
    task: Task = "multi_label",
) -> Tensor:
    """Average the outputs (B, T_out, C) of two networks, of the context and the focused volume.

    "logits" (released code) averages logits. "scores" (the paper's words) averages their sigmoids, or with a single
    label their softmax over classes, and returns logits with that mean, so losses and metrics treat both alike. They
    are the logit of each mean, with a single label its logarithm.

    ValueError where the shapes differ, or `fuse` is unknown.
    """
    if base_logits.shape != focus_logits.shape:
        raise ValueError(f"late fusion needs equal shapes, got {base_logits.shape} and {focus_logits.shape}")
    if fuse == "logits":
        return (base_logits + focus_logits) / 2
    if fuse == "scores" and task == "single_label":
        return torch.logaddexp(base_logits.log_softmax(-1), focus_logits.log_softmax(-1)) - math.log(2)
    if fuse == "scores":
        # logit((p + q) / 2) = log(p + q) - log((1 - p) + (1 - q)), finite where p rounds to 0 or 1
        log_yes = torch.logaddexp(F.logsigmoid(base_logits), F.logsigmoid(focus_logits))
        return log_yes - torch.logaddexp(F.logsigmoid(-base_logits), F.logsigmoid(-focus_logits))
    raise ValueError(f'fuse must be "logits" or "scores", got {fuse!r}')


def pool_boxes(logits: Tensor, pool: Literal["max", "mean"] = "max") -> Tensor:
    """Pool the logits of a clip's k boxes, (B, k, T_out, C) to (B, T_out, C): the largest, or the mean, of each.

    What one box alone shows stays in the largest as it is, and is watered down in the mean. ValueError for another one.
    """
    if pool == "max":
        return logits.amax(1)
    if pool == "mean":
        return logits.mean(1)
    raise ValueError(f'pool_boxes must be "max" or "mean", got {pool!r}')


def concat_time(context: Tensor, focus: Tensor) -> Tensor:
    """Concatenate two volumes (B, T, H, W, 3) along time to (B, 2T, H, W, 3).

    With k boxes, `focus` is (B, k, T, H, W, 3) and the result (B, (1 + k) T, H, W, 3): the context, then box by box.
    ValueError where the shapes differ.
    """
    boxes = focus if focus.ndim > context.ndim else focus[:, None]
    if context.shape != boxes[:, 0].shape:
        raise ValueError(f"temporal concatenation needs equal shapes, got {context.shape} and {focus.shape}")
    return torch.cat([context, boxes.flatten(1, 2)], dim=1)


def concat_targets(frame_targets: Tensor, num_boxes: int = 1) -> Tensor:
    """Repeat the frame targets for every box of a concatenated clip: (B, T, C) to (B, (1 + k) T, C)."""
    return frame_targets.repeat(1, 1 + num_boxes, 1)


def clip_logits(logits: Tensor) -> Tensor:
    """Score clips by their mean logit over time: (B, T_out, C) to (B, C). `class_scores` of it are probabilities."""
    return logits.mean(1)


def class_scores(logits: Tensor, task: Task = "multi_label") -> Tensor:
    """Compute the probabilities of the classes from a clip's logits, (..., C) to float64 (..., C).

    Sigmoids, or with a single label the softmax over classes. For ranking take `video_scores`: these saturate.
    """
    logits = logits.double()
    return logits.softmax(-1) if task == "single_label" else logits.sigmoid()


def video_scores(logits: Tensor, task: Task = "multi_label", pooling: Literal["max", "mean"] = "max") -> Tensor:
    """Score a video by the logits of its clips, (clips, C) to float64 (C,): log-odds, whose sigmoid is the probability.

    log(p / (1 - p)) of the largest ("max") or of the mean p over clips, p the `class_scores`, is computed without p,
    so it keeps the order of videos and of classes where p itself rounds to 0 or 1, in float64 too. ValueError for
    another pooling.
    """
    log_yes, log_no = _log_probabilities(logits.double(), task)
    if pooling == "max":
        return (logits.double() if task == "multi_label" else log_yes - log_no).amax(0)
    if pooling == "mean":
        return log_yes.logsumexp(0) - log_no.logsumexp(0)
    raise ValueError(f'pooling must be "max" or "mean", got {pooling!r}')


def _log_probabilities(logits: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Return log p and log(1 - p) of every class, both exact where p rounds to 0 or 1: (..., C) to two of (..., C)."""
    if task == "multi_label":
        return F.logsigmoid(logits), F.logsigmoid(-logits)
    log_yes, first = logits.log_softmax(-1), logits.argmax(-1, keepdim=True)
    others = log_yes.scatter(-1, first, -math.inf).logsumexp(-1, keepdim=True)  # 1 - p of the likeliest is their sum
    return log_yes, torch.log1p(-log_yes.exp()).scatter(-1, first, others)
