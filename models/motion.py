"""Where frames change: a map of a clip that needs no network, to compare saliency with."""

from torch import Tensor


def motion_maps(clips: Tensor) -> Tensor:
    """Compute how much a pixel changes from frame to frame, at most: uint8 (B, T, H, W, 3) to float32 (B, H, W).

    The absolute difference of successive frames is summed over colour, in [0, 765]; of these, the maximum over time.
    Zeros for a clip of one frame.
    """
    clips = clips.short()
    if clips.shape[1] < 2:
        return clips[:, 0, ..., 0].float() * 0
    return (clips[:, 1:] - clips[:, :-1]).abs().sum(-1).amax(1).float()
