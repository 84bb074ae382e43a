"""One step of either fusion: a batch to logits, and to the training loss."""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from models.fusion import concat_targets, concat_time, late_fusion
from models.i3d import as_input
from models.losses import LossTerms, charades_loss
from pipeline.config import Fusion, FusionTraining, Task


class FusionBatch(NamedTuple):
    """Some clips as a fusion model sees them."""

    focused: Tensor  # focused volumes, uint8 (B, T, S, S, 3)
    first_look: Tensor  # late: Base's logits, float32 (B, T_out, C); concat: context volumes like `focused`
    video_targets: Tensor  # float32 (B, C)
    frame_targets: Tensor  # float32 (B, T, C)


def fusion_logits(
    network: nn.Module,
    batch: FusionBatch,
    fusion: Fusion,
    fuse: Literal["logits", "scores"],
    task: Task = "multi_label",
) -> Tensor:
    """Return the fused logits, float32 (B, T_out, C); twice as many time steps with concatenation (paper 4.3)."""
    if fusion == "late":
        logits = network(as_input(batch.focused, batch.focused.device)).float()
        return late_fusion(batch.first_look, logits, fuse, task)
    volumes = concat_time(batch.first_look, batch.focused)
    return network(as_input(volumes, volumes.device)).float()


def fusion_loss(
    network: nn.Module, batch: FusionBatch, fusion: Fusion, recipe: FusionTraining, task: Task = "multi_label"
) -> Tensor:
    """Return the training loss of paper 5.2 on the fused logits; concatenation has every frame label twice."""
    frame_targets = concat_targets(batch.frame_targets) if fusion == "concat" else batch.frame_targets
    logits = fusion_logits(network, batch, fusion, recipe.fuse, task)
    return charades_loss(logits, batch.video_targets, frame_targets, LossTerms.of(recipe, task))
