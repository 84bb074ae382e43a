"""Objectives: the scalars whose gradient is the saliency of a clip, and the maps made of them."""

from collections.abc import Iterable
from functools import partial

from torch import Tensor, nn

from models.grad_cam import grad_cam
from models.losses import charades_loss, entropy, max_logit, softmax_entropy
from models.saliency import input_saliency
from pipeline.config import Config


def saliency_maps(
    network: nn.Module, video: Tensor, names: Iterable[str], config: Config, targets: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the saliency maps of some objectives, by the config's method; see `input_saliency`.

    Args:
        network, video: as there.
        names: of objectives, from OBJECTIVES.
        targets: labels of the videos (B, C) and of the frames (B, T, C), on the video's device; only `cross_entropy`
            looks at them, None will do for the others.
    """
    objectives = {"entropy": entropy, "max_logit": max_logit, "softmax_entropy": softmax_entropy}
    if targets is not None:
        objectives["cross_entropy"] = partial(
            charades_loss,
            video_targets=targets[0],
            frame_targets=targets[1],
            video_loss_weight=config.base.video_loss_weight,
            reduction="clip_sum",
        )
    look = grad_cam if config.saliency.method == "grad_cam" else input_saliency
    return look(network, video, {name: objectives[name] for name in names}, config.saliency.precision)
