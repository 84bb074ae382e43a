"""One step of either fusion: a batch of the caches to logits, and to the training loss."""

from torch import Tensor, nn

from models.fusion import concat_targets, concat_time, late_fusion
from models.i3d import as_input
from models.losses import charades_loss
from pipeline.config import Config, Fusion
from pipeline.training.loader import Batch


def fusion_logits(network: nn.Module, batch: Batch, fusion: Fusion, fuse: str) -> Tensor:
    """Logits (B, T_out, C) of a batch of `Volumes.load`."""
    focus, other = batch[:2]
    if fusion == "late":
        return late_fusion(other, network(as_input(focus, focus.device)).float(), fuse)
    return network(as_input(concat_time(other, focus), focus.device)).float()


def fusion_loss(network: nn.Module, batch: Batch, fusion: Fusion, config: Config) -> Tensor:
    """The training loss of paper 5.2 on the fused logits; a concatenated clip has its frame labels twice."""
    video_targets, frame_targets = batch[2:]
    if fusion == "concat":
        frame_targets = concat_targets(frame_targets)
    logits = fusion_logits(network, batch, fusion, config.fusion.fuse)
    return charades_loss(logits, video_targets, frame_targets, config.fusion.video_loss_weight)
