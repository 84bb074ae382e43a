"""Scalars of logits at several time steps: the Charades training loss, and objectives that need no labels."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def charades_loss(
    logits: Tensor,
    video_targets: Tensor,
    frame_targets: Tensor,
    video_loss_weight: float | Literal["released"] = 1.0,
    reduction: Literal["mean", "clip_sum"] = "mean",
) -> Tensor:
    """Compute video loss plus frame loss (paper, 5.2; L_CE of eq. 3 with its usual minus), a scalar.

    Video loss: binary cross-entropy of the logits' mean over time. Frame loss: binary cross-entropy of the logits,
    interpolated linearly to the T_in frames. Each is the mean over its elements.

    Args:
        logits: float (B, T_out, C).
        video_targets, frame_targets: float (B, C) and (B, T_in, C), 0 or 1.
        video_loss_weight: "released" is the mean over the T_in frame rows and the video row together, as in the
            authors' code.
        reduction: over clips; "clip_sum" for saliency: the gradient in one clip then does not depend on the others.
    """
    frames = frame_targets.shape[1]
    by_class = F.interpolate(logits.transpose(1, 2), size=frames, mode="linear", align_corners=False)  # B, C, T_in
    video = _cross_entropy(logits.mean(1), video_targets)  # B
    frame = _cross_entropy(by_class.transpose(1, 2), frame_targets)  # B
    if video_loss_weight == "released":
        clip = (frame * frames + video) / (frames + 1)
    else:
        clip = frame + video_loss_weight * video
    if reduction == "mean":
        return clip.mean()
    if reduction == "clip_sum":
        return clip.sum()
    raise ValueError(f'reduction must be "mean" or "clip_sum", got {reduction!r}')


def entropy(logits: Tensor) -> Tensor:
    """Compute L_E of eq. 4, (B,): the sum of p log p over time steps and classes, p = sigmoid of logits (B, T_out, C).

    It is at most 0: the nearer to 0, the more certain the network.
    """
    return (logits.sigmoid() * F.logsigmoid(logits)).sum((1, 2))  # logsigmoid: finite where p underflows


def softmax_entropy(logits: Tensor) -> Tensor:
    """Compute the released code's L_E, (B,): the sum of q log q, q = softmax over classes of sigmoid(logits)."""
    scores = logits.sigmoid()  # B, T_out, C
    return (scores.softmax(-1) * scores.log_softmax(-1)).sum((1, 2))


def max_logit(logits: Tensor) -> Tensor:
    """Compute minus the largest of a clip's logits (B, T_out, C), an objective of the released code: (B,)."""
    return -logits.flatten(1).amax(1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Average binary cross-entropy over all elements of each clip: (B, ...) to (B,)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1)
