"""Scalars of logits at several time steps: the Charades training loss, and objectives that need no labels."""

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor


class LossTerms(NamedTuple):
    """How the terms of the Charades training loss are made; the settings of a training with the same names.

    The paper leaves `frame_interpolation` and the rest of the released loss open; ("released", "aligned", "clip") is
    that of the released code.
    """

    # of the video term; "released": the mean over the T_in frame rows and the video row together
    video_loss_weight: float | Literal["released"] = 1.0
    # from T_out to T_in; "aligned": first and last time steps lie on first and last frame, "centred": each in the
    # middle of its share of the frames
    frame_interpolation: Literal["aligned", "centred"] = "aligned"
    video_targets: Literal["video", "clip"] = "video"  # labels of the whole video, or the union of the clip's frames'
    # s: targets t become t (1 - s) + s / 2. Of a training alone: saliency takes the labels as they are
    label_smoothing: float = 0.0

    @classmethod
    def of(cls, settings: object) -> "LossTerms":
        """Take them from the settings of a training."""
        return cls(*(getattr(settings, name) for name in cls._fields))


PAPER = LossTerms()


def charades_loss(
    logits: Tensor,
    video_targets: Tensor,
    frame_targets: Tensor,
    terms: LossTerms = PAPER,
    reduction: Literal["mean", "clip_sum"] = "mean",
) -> Tensor:
    """Compute video loss plus frame loss (paper, 5.2; L_CE of eq. 3 with its usual minus), a scalar.

    Video loss: binary cross-entropy of the logits' mean over time. Frame loss: binary cross-entropy of the logits,
    interpolated linearly to the T_in frames. Each is the mean over its elements.

    Args:
        logits: float (B, T_out, C).
        video_targets, frame_targets: float (B, C) and (B, T_in, C), 0 or 1.
        reduction: over clips; "clip_sum" for saliency: the gradient in one clip then does not depend on the others.
    """
    frames, aligned = frame_targets.shape[1], terms.frame_interpolation == "aligned"
    if terms.video_targets == "clip":
        video_targets = frame_targets.amax(1)
    by_class = F.interpolate(logits.transpose(1, 2), size=frames, mode="linear", align_corners=aligned)  # B, C, T_in
    video = _cross_entropy(logits.mean(1), video_targets, terms.label_smoothing)  # B
    frame = _cross_entropy(by_class.transpose(1, 2), frame_targets, terms.label_smoothing)  # B
    if terms.video_loss_weight == "released":
        clip = (frame * frames + video) / (frames + 1)
    else:
        clip = frame + terms.video_loss_weight * video
    if reduction == "mean":
        return clip.mean()
    if reduction == "clip_sum":
        return clip.sum()
    raise ValueError(f'reduction must be "mean" or "clip_sum", got {reduction!r}')


def negative_entropy(logits: Tensor) -> Tensor:
    """Compute L_E of eq. 4, (B,): the sum of p log p over time steps and classes, p = sigmoid of logits (B, T_out, C).

    It is at most 0: the nearer to 0, the more certain the network. What the caches call entropy is minus this.
    """
    return (logits.sigmoid() * F.logsigmoid(logits)).sum((1, 2))  # logsigmoid: finite where p underflows


def negative_softmax_entropy(logits: Tensor) -> Tensor:
    """Compute the released code's L_E, (B,): the sum of q log q, q = softmax over classes of sigmoid(logits)."""
    scores = logits.sigmoid()  # B, T_out, C
    return (scores.softmax(-1) * scores.log_softmax(-1)).sum((1, 2))


def max_logit(logits: Tensor) -> Tensor:
    """Compute minus the largest of a clip's logits (B, T_out, C), an objective of the released code: (B,)."""
    return -logits.flatten(1).amax(1)


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Average binary cross-entropy over all elements of each clip: (B, ...) to (B,)."""
    if smoothing:
        targets = targets * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1)
