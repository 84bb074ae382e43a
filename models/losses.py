"""Losses on logits at several time steps: the Charades training loss, and the entropy of eq. 4."""

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
    """Video loss plus frame loss (paper, section 5.2; L_CE of eq. 3).

    Video: binary cross-entropy of the logits' mean over time. Frame: binary cross-entropy of the logits interpolated
    linearly to the T_in frames. Each is the mean over its elements.

    Args:
        logits: (B, T_out, C).
        video_targets: (B, C), 0 or 1.
        frame_targets: (B, T_in, C), 0 or 1.
        video_loss_weight: of the video term; "released" is the mean over the T_in frame rows and the video row
            together, as in the authors' code.
        reduction: "mean" over the batch, for training. "clip_sum" adds up the clips instead, so that the gradient with
            respect to one clip does not depend on the batch around it: the objective of saliency.
    Returns:
        scalar.
    """
    frames = frame_targets.shape[1]
    frame_logits = F.interpolate(logits.transpose(1, 2), size=frames, mode="linear", align_corners=False).transpose(
        1, 2
    )
    video = _cross_entropy(logits.mean(1), video_targets)  # B
    frame = _cross_entropy(frame_logits, frame_targets)  # B
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
    """L_E of eq. 4, which needs no labels: the sum of p log p over time steps and classes, p = sigmoid(logits).

    Args:
        logits: (B, T_out, C).
    Returns:
        (B,); 0 where the network is certain of everything, most negative where it knows nothing.
    """
    return (logits.sigmoid() * F.logsigmoid(logits)).sum((1, 2))  # logsigmoid: finite where p underflows


def softmax_entropy(logits: Tensor) -> Tensor:
    """The released code's variant of L_E: sum of q log q, q = softmax over classes of the sigmoid outputs. (B,)."""
    scores = logits.sigmoid()
    return (scores.softmax(-1) * scores.log_softmax(-1)).sum((1, 2))


def max_logit(logits: Tensor) -> Tensor:
    """Minus the largest logit of each clip, another objective of the released code. (B,)."""
    return -logits.flatten(1).amax(1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all elements of each clip: (B, ...) to (B,)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1)
