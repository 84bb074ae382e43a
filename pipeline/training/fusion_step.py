"""One step of either fusion: a batch to logits, and to the training loss."""

from typing import Literal, NamedTuple

from torch import Tensor, nn

from models.fusion import concat_targets, concat_time, late_fusion, pool_boxes
from models.i3d import as_input
from models.losses import LossTerms, charades_loss
from pipeline.config import Fusion, FusionTraining, Task


class FusionBatch(NamedTuple):
    """Some clips as a fusion model sees them."""

    focused: Tensor  # focused volumes, uint8 (B, T, S, S, 3); of k boxes (B, k, T, S, S, 3)
    first_look: Tensor  # late: Base's logits, float32 (B, T_out, C); concat: context volumes, uint8 (B, T, S, S, 3)
    video_targets: Tensor  # float32 (B, C)
    frame_targets: Tensor  # float32 (B, T, C)

    @property
    def num_boxes(self) -> int:
        """How many focused volumes a clip has."""
        return self.focused.shape[1] if self.focused.ndim == 6 else 1


def fusion_logits(
    network: nn.Module,
    batch: FusionBatch,
    fusion: Fusion,
    fuse: Literal["logits", "scores"],
    task: Task = "multi_label",
    pool: Literal["max", "mean"] = "max",
) -> Tensor:
    """Return the fused logits, float32 (B, T_out, C); with concatenation the time steps of all volumes (paper 4.3).

    Late fusion looks at every box by itself and pools their logits, see `pool_boxes`, before it adds Base's.
    """
    if fusion == "late":
        several = batch.focused.ndim == 6
        volumes = batch.focused.flatten(0, 1) if several else batch.focused
        logits = network(as_input(volumes, volumes.device)).float()
        if several:
            logits = pool_boxes(logits.unflatten(0, (-1, batch.num_boxes)), pool)
        return late_fusion(batch.first_look, logits, fuse, task)
    volumes = concat_time(batch.first_look, batch.focused)
    return network(as_input(volumes, volumes.device)).float()


def fusion_loss(
    network: nn.Module, batch: FusionBatch, fusion: Fusion, recipe: FusionTraining, task: Task = "multi_label"
) -> Tensor:
    """Return the training loss of paper 5.2 on the fused logits; concatenation repeats every frame label."""
    frame_targets = batch.frame_targets
    if fusion == "concat":
        frame_targets = concat_targets(frame_targets, batch.num_boxes)
    logits = fusion_logits(network, batch, fusion, recipe.fuse, task, recipe.pool_boxes)
    return charades_loss(logits, batch.video_targets, frame_targets, LossTerms.of(recipe, task))
