"""Objectives: the scalars whose gradient is the saliency of a clip, in one table, and the maps they give."""

from collections.abc import Iterable
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor, nn

from models.grad_cam import grad_cam
from models.losses import (
    PAPER,
    LossTerms,
    Task,
    charades_loss,
    max_logit,
    max_mean_logit,
    negative_class_entropy,
    negative_entropy,
    negative_softmax_entropy,
)
from models.precision import Precision
from models.saliency import GradientAt, Objective, input_saliency

# Objectives that need no labels, logits (B, T_out, C) to (B,). A new one is a line here and a function in losses.py.
OBJECTIVES: dict[str, Objective] = {
    "entropy": negative_entropy,
    "max_logit": max_logit,
    "softmax_entropy": negative_softmax_entropy,
}
OF_SINGLE_LABEL = {"entropy": negative_class_entropy, "max_logit": max_mean_logit}  # in place of those of many labels


class Labels(NamedTuple):
    """What the objective "cross_entropy" compares the logits with; see `charades_loss`."""

    video_targets: Tensor  # float32 (B, C)
    frame_targets: Tensor  # float32 (B, T, C)
    terms: LossTerms = PAPER


class MapKind(NamedTuple):
    """How maps are made: by which method, where its gradient is taken, and for how many segments of time."""

    method: Literal["input_gradient", "grad_cam"] = "input_gradient"
    gradient_at: GradientAt = "pixels"  # of "input_gradient"; Grad-CAM has its own place
    time_segments: int = 1

    @classmethod
    def of(cls, settings: object) -> "MapKind":
        """Take it from the settings of stage 1."""
        return cls(**{name: getattr(settings, name) for name in cls._fields})


PLAIN = MapKind()


def objectives_of(task: Task) -> dict[str, Objective]:
    """Return the objectives of a task that need no labels, by name."""
    return OBJECTIVES | OF_SINGLE_LABEL if task == "single_label" else dict(OBJECTIVES)


def saliency_maps(
    network: nn.Module,
    video: Tensor,
    names: Iterable[str],
    kind: MapKind = PLAIN,
    precision: Precision = "float32",
    labels: Labels | None = None,
    task: Task = "multi_label",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute logits and saliency maps as `input_saliency`, or with Grad-CAM, of objectives given by name.

    They are in `objectives_of` the task, or "cross_entropy", the training loss (eq. 3) without label smoothing, which
    needs labels on the video's device, whose terms are those of the task.
    """
    objectives = objectives_of(task)
    if labels is not None:
        labels = labels._replace(terms=labels.terms._replace(label_smoothing=0.0))
        objectives["cross_entropy"] = partial(charades_loss, **labels._asdict(), reduction="clip_sum")
    chosen = {name: objectives[name] for name in names}
    if kind.method == "grad_cam":
        return grad_cam(network, video, chosen, precision, kind.time_segments)
    return input_saliency(network, video, chosen, precision, kind.gradient_at, kind.time_segments)
