"""Scalars of logits at several time steps: the training loss of either task, and objectives that need no labels."""

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

# any number of labels a video, each class with a sigmoid of its own; or exactly one, with a softmax over the classes
Task = Literal["multi_label", "single_label"]


class LossTerms(NamedTuple):
    """How the terms of the training loss are made: the settings of a training with the same names, and the task.

    The paper leaves `frame_interpolation` and the rest of the released loss open; ("released", "aligned", "clip") is
    that of the released code.
    """

    # of the video term; "released": the mean over the T_in frame rows and the video row together
    video_loss_weight: float | Literal["released"] = 1.0
    # from T_out to T_in; "aligned": first and last time steps lie on first and last frame, "centred": each in the
    # middle of its share of the frames
    frame_interpolation: Literal["aligned", "centred"] = "aligned"
    video_targets: Literal["video", "clip"] = "video"  # labels of the whole video, or the union of the clip's frames'
    # s: targets t become t (1 - s) + s / 2, those of a single label t (1 - s) + s / C. Of a training alone: saliency
    # takes the labels as they are
    label_smoothing: float = 0.0
    task: Task = "multi_label"

    @classmethod
    def of(cls, settings: object, task: Task = "multi_label") -> "LossTerms":
        """Take them from the settings of a training."""
        return cls(**{name: getattr(settings, name) for name in cls._fields if name != "task"}, task=task)


PAPER = LossTerms()


def charades_loss(
    logits: Tensor,
    video_targets: Tensor,
    frame_targets: Tensor,
    terms: LossTerms = PAPER,
    reduction: Literal["mean", "clip_sum"] = "mean",
) -> Tensor:
    """Compute video loss plus frame loss (paper, 5.2; L_CE of eq. 3 with its usual minus), a scalar.

    Video loss: cross-entropy of the logits' mean over time. Frame loss: cross-entropy of the logits, interpolated
    linearly to the T_in frames. With many labels cross-entropy is binary, and each loss the mean over its elements.
    With a single label it is that of the softmax. A frame without an action has no class, so it is left out: with the
    label y, mean logits m, interpolated logits f_t, the frames A that have the action, and the video's weight w,

        L = w * -log softmax(m)_y + 1 / |A| * sum over t in A of -log softmax(f_t)_y;

    w = "released" gives the mean over A and the video row together. The second term is 0 where A is empty.

    Args:
        logits: float (B, T_out, C).
        video_targets, frame_targets: float (B, C) and (B, T_in, C), 0 or 1; with a single label at most one 1 a row.
        reduction: over clips; "clip_sum" for saliency: the gradient in one clip then does not depend on the others.
    """
    frames, aligned = frame_targets.shape[1], terms.frame_interpolation == "aligned"
    if terms.video_targets == "clip":
        video_targets = frame_targets.amax(1)
    by_class = F.interpolate(logits.transpose(1, 2), size=frames, mode="linear", align_corners=aligned)  # B, C, T_in
    cross_entropy = _softmax_cross_entropy if terms.task == "single_label" else _cross_entropy
    video = cross_entropy(logits.mean(1), video_targets, terms.label_smoothing)  # B
    frame = cross_entropy(by_class.transpose(1, 2), frame_targets, terms.label_smoothing)  # B
    if terms.video_loss_weight == "released":
        counted = frame_targets.sum((1, 2)) if terms.task == "single_label" else frames  # rows of the frame loss
        clip = (frame * counted + video) / (counted + 1)
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


def negative_class_entropy(logits: Tensor) -> Tensor:
    """Compute L_E of a single label, (B,): the sum of p log p over classes, p = softmax of the logits' mean over time.

    It is at most 0, as `negative_entropy`. Logits are (B, T_out, C).
    """
    log_p = logits.mean(1).log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1)


def max_mean_logit(logits: Tensor) -> Tensor:
    """Compute minus the largest of a clip's logits, averaged over time, (B, T_out, C): (B,). Its class is predicted."""
    return -logits.mean(1).amax(-1)


def _softmax_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Average -log softmax of the target class over the rows of a clip that have one, 0 without: (B, .., C) to (B,)."""
    rows = targets.sum(-1, keepdim=True)  # 1 where there is a class
    targets = targets * (1 - smoothing) + rows * smoothing / targets.shape[-1]
    total = -(targets * logits.log_softmax(-1)).flatten(1).sum(1)
    return total / rows.flatten(1).sum(1).clamp(min=1)


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Average binary cross-entropy over all elements of each clip: (B, ...) to (B,)."""
    if smoothing:
        targets = targets * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1)
