"""Where frames change: a map of a clip that needs no network, to compare saliency with."""

from torch import Tensor

from models.saliency import segment_maxima


def motion_maps(clips: Tensor, segments: int = 1) -> Tensor:
    """Compute how much a pixel changes from frame to frame, at most: uint8 (B, T, H, W, 3) to float32 (B, H, W).

    The absolute difference of successive frames is summed over colour, in [0, 765]; of these, the maximum over time.
    Zeros for a clip of one frame. With several segments of time (B, segments, H, W): a segment has the changes within
    it and, since `segment_maxima` takes what its time touches, those from and to its neighbours.
    """
    clips = clips.short()
    if clips.shape[1] < 2:
        return clips[:, 0, ..., 0].float() * 0
    maps = segment_maxima((clips[:, 1:] - clips[:, :-1]).abs().sum(-1), segments).float()
    return maps if segments > 1 else maps[:, 0]
