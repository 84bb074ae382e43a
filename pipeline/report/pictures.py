"""Pictures from arrays: films, saliency as a transparent layer of colour (the veil), heat maps."""

import base64
import io
import math

import numpy as np
from PIL import Image

QUALITY = 80  # of WebP, in [0, 100]
PATCHES = 56  # of a map as it is shown, along the longer side
# vermillion to yellow of the Okabe-Ito palette: dark to bright also without colour vision
VEIL = np.array([(0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00), (0xF0, 0xE4, 0x42)], np.float64)
# cividis in six steps: blue to yellow, evenly brighter (Nunez, Anderton, Renslow 2018)
CIVIDIS = np.array(
    [(0, 34, 78), (53, 69, 108), (102, 105, 112), (148, 142, 119), (200, 184, 102), (254, 232, 56)], np.float64
)


def ramp(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as colours, linear between those given: float64 (..., 3)."""
    places = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, places, channel) for channel in colours.T], -1)


def pooled(saliency: np.ndarray) -> np.ndarray:
    """A map (H, W) averaged over square patches, at most PATCHES along a side: regions show, single pixels do not."""
    size = tuple(math.ceil(side / math.ceil(max(saliency.shape) / PATCHES)) for side in saliency.shape)
    if size == saliency.shape:
        return saliency
    whole = Image.fromarray(saliency.astype(np.float32))
    return np.maximum(np.asarray(whole.resize(size[::-1], Image.Resampling.BOX)), 0)


def relative(saliency: np.ndarray) -> np.ndarray:
    """Square root of a map over its maximum, so that weak regions show: float64 (H, W) in [0, 1]."""
    highest = float(saliency.max(initial=0))
    return np.sqrt(saliency / highest) if highest > 0 else np.zeros(saliency.shape)


def veil(saliency: np.ndarray) -> np.ndarray:
    """A map (H, W), pooled, as a layer of colour, uint8 (h, w, 4) RGBA; transparent where there is no saliency."""
    strength = relative(pooled(saliency))
    layer = np.concatenate([ramp(strength, VEIL), 200 * strength[..., None] ** 2], -1)
    return np.rint(layer).astype(np.uint8)


def under_veil(frames: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Frames, uint8 (T, H, W, 3), under a layer, uint8 (h, w, 4), that is enlarged to their size."""
    size = frames.shape[2:0:-1]
    layer = np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BILINEAR))
    opaque = layer[..., 3:] / 255
    return np.rint(frames * (1 - opaque) + layer[..., :3] * opaque).astype(np.uint8)


def heat(density: np.ndarray, highest: float) -> np.ndarray:
    """A density, float (H, W) in [0, highest], in colours of cividis: uint8 (H, W, 3)."""
    return np.rint(ramp(density / highest if highest > 0 else density, CIVIDIS)).astype(np.uint8)


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers 0 to count - 1, evenly spaced, the first and the last among them."""
    return np.unique(np.rint(np.linspace(0, count - 1, min(count, wanted))).astype(int)).tolist()


def film(frames: np.ndarray, longest_side: int) -> np.ndarray:
    """Frames from left to right, shrunk where a side is too long: uint8 (T, H, W, 3) to (h, T w, 3)."""
    height, width = frames.shape[1:3]
    scale = min(1, longest_side / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        frames = np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in frames])
    return np.concatenate(list(frames), axis=1)


def data_uri(pixels: np.ndarray, lossless: bool = False) -> str:
    """A picture, uint8 (H, W, 3 or 4), as a data: address that holds a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "webp", quality=QUALITY, lossless=lossless, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
