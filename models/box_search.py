"""The box with the largest sum of saliency (eq. 6), found exactly on a map of integer codes."""

import numpy as np

LARGEST_CODE = np.iinfo(np.uint16).max


def quantise(saliency: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Turn a saliency map, float32 (H, W), into integers, whose sums are exact; or (segments, H, W), with one scale.

    Returns codes uint16 of this shape, whose maximum is 65535, and scale float32, both 0 for a map of zeros; codes *
    scale is the map to half a step. ValueError where the map has negative or non-finite values.
    """
    if not (np.isfinite(saliency).all() and (saliency >= 0).all()):
        raise ValueError("a saliency map must be finite and not negative")
    peak = float(saliency.max())
    scale = np.float32(peak / LARGEST_CODE)
    if scale == 0:  # zeros, or too small for a float32 scale
        return np.zeros(saliency.shape, np.uint16), np.float32(0)
    return np.rint(saliency.astype(np.float64) * (LARGEST_CODE / peak)).astype(np.uint16), scale


def best_box(codes: np.ndarray, height: int, width: int) -> tuple[int, int, float]:
    """Find the box of height x width pixels with the largest sum of codes, uint16 (H, W) of the input frame.

    Returns top and left, of equals the first in row-major order, and the box's share of the sum of the whole map;
    (0, 0, NaN) for a map of zeros. ValueError where the box is empty or does not fit into the map.
    """
    if not (0 < height <= codes.shape[0] and 0 < width <= codes.shape[1]):
        raise ValueError(f"a box of {height} x {width} does not fit into a map of {codes.shape[0]} x {codes.shape[1]}")
    integral = np.zeros((codes.shape[0] + 1, codes.shape[1] + 1), np.int64)  # sums over all rows above, columns before
    integral[1:, 1:] = codes.astype(np.int64).cumsum(0).cumsum(1)
    bands = integral[height:] - integral[:-height]  # H - height + 1, W + 1
    sums = bands[:, width:] - bands[:, :-width]  # H - height + 1, W - width + 1
    top, left = np.unravel_index(sums.argmax(), sums.shape)  # argmax takes the first of equals
    total = integral[-1, -1]
    return int(top), int(left), float(sums[top, left] / total) if total else float("nan")
