"""Fusion of context and focused volume (paper, 4.3): the mean of two networks, or both volumes into one network."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def late_fusion(base_logits: Tensor, focus_logits: Tensor, fuse: Literal["logits", "scores"] = "logits") -> Tensor:
    """Average the outputs (B, T_out, C) of two networks, of the context and the focused volume.

    "logits" (released code) averages logits. "scores" (the paper's words) averages their sigmoids and returns the logit
    of the mean, so losses and metrics treat both alike. ValueError where the shapes differ, or `fuse` is unknown.
    """
    if base_logits.shape != focus_logits.shape:
        raise ValueError(f"late fusion needs equal shapes, got {base_logits.shape} and {focus_logits.shape}")
    if fuse == "logits":
        return (base_logits + focus_logits) / 2
    if fuse == "scores":
        # logit((p + q) / 2) = log(p + q) - log((1 - p) + (1 - q)), finite where p rounds to 0 or 1
        log_yes = torch.logaddexp(F.logsigmoid(base_logits), F.logsigmoid(focus_logits))
        return log_yes - torch.logaddexp(F.logsigmoid(-base_logits), F.logsigmoid(-focus_logits))
    raise ValueError(f'fuse must be "logits" or "scores", got {fuse!r}')


def concat_time(context: Tensor, focus: Tensor) -> Tensor:
    """Concatenate two volumes (B, T, H, W, 3) along time to (B, 2T, H, W, 3); ValueError where the shapes differ."""
    if context.shape != focus.shape:
        raise ValueError(f"temporal concatenation needs equal shapes, got {context.shape} and {focus.shape}")
    return torch.cat([context, focus], dim=1)


def concat_targets(frame_targets: Tensor) -> Tensor:
    """Repeat the frame targets for the focused half of a concatenated clip: (B, T, C) to (B, 2T, C)."""
    return frame_targets.repeat(1, 2, 1)


def clip_logits(logits: Tensor) -> Tensor:
    """Score clips by their mean logit over time: (B, T_out, C) to (B, C). The sigmoid of it ranks them equally."""
    return logits.mean(1)
