"""Frames of a generated video."""

import colorsys

import numpy as np

from pipeline.data.miniature.photos import Gallery, moving, put_photo
from pipeline.data.miniature.script import Card, Script

PAIR_HUES = (0.0, 0.15, 0.36, 0.58, 0.82)
FINE_AMPLITUDE = 0.35  # of a print, at most; see `worlds.Kind`
COARSE_PERIOD = 3.0  # of the decoy, at the alias of the print
NOISE = 0.02


def draw_video(script: Script, rng: np.random.Generator, gallery: Gallery | None = None):
    """Yield frames, uint8 (H, W, 3), with (card, top, left, height, width) in source pixels of each visible card.

    Args:
        gallery: photographs for the cards; None for prints.
    """
    height, width = script.source_size
    hues = _hues(script.split, rng)
    if gallery and gallery.clutter:
        backgrounds = list(moving(gallery, script.split, script.num_frames, script.source_size, rng))
    else:
        backgrounds = [_clutter(height, width, hues, rng)] * script.num_frames
    figure, anchor = _figure(script.scale, hues, rng)
    if gallery:
        patches = [_photo_patch(card, script, gallery, rng) for card in script.cards]
    else:
        patches = [_card_patch(card, script.scale, script.split, rng) for card in script.cards]
    for number, hand in enumerate(script.path):
        frame = backgrounds[number].copy()
        _paste(frame, figure, *np.round((hand - anchor) * script.scale).astype(int))
        visible = []
        for index, (card, patch) in enumerate(zip(script.cards, patches, strict=True)):
            if card.start <= number / script.fps <= card.end:
                top, left = np.round((hand + card.slot) * script.scale).astype(int)
                _paste(frame, patch, top, left)
                visible.append((index, int(top), int(left), *patch.shape[:2]))
        frame += rng.standard_normal((height, width, 1), dtype=np.float32) * NOISE
        yield (frame.clip(0, 1) * 255 + 0.5).astype(np.uint8), visible


def _hues(split: str, rng: np.random.Generator) -> np.ndarray:
    """Draw eight hues in [0, 1) for clutter and figure; training and evaluation draw from interleaved bands."""
    band = rng.integers(0, 18, 8) * 2 + (split == "test")
    return (band + rng.random(8)) / 36


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def _clutter(height: int, width: int, hues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a still background of dull rectangles and ellipses, float32 (H, W, 3)."""
    ramp = np.linspace(-0.1, 0.1, height, dtype=np.float32)[:, None, None] * rng.uniform(-1, 1)
    image = np.broadcast_to(_colour(hues[0], 0.2, rng.uniform(0.35, 0.65)) + ramp, (height, width, 3)).copy()
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rows, columns = rows / height, columns / width
    for _ in range(14):
        centre_y, centre_x = rng.random(2)
        half_y, half_x = rng.uniform(0.02, 0.16, 2)
        dy, dx = np.abs(rows - centre_y) / half_y, np.abs(columns - centre_x) / half_x
        inside = np.maximum(dy, dx) < 1 if rng.random() < 0.6 else dy**2 + dx**2 < 1
        image[inside] = _colour(rng.choice(hues), rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.8))
    return image


def _figure(scale: tuple[float, float], hues: np.ndarray, rng: np.random.Generator):
    """Draw a person-like shape, float32 (h, w, 4) with alpha; return also where its hand is, resized pixels (y, x)."""
    height, width = 44.0, 18.0
    rows, columns = np.mgrid[0 : round(height * scale[0]), 0 : round(width * scale[1])].astype(np.float32)
    rows, columns = rows / scale[0], columns / scale[1]
    head = ((rows - 5) / 5) ** 2 + ((columns - 9) / 4) ** 2 < 1
    body = (rows >= 10) & (rows < 27) & (np.abs(columns - 9) < 6)
    legs = (rows >= 27) & (np.abs(np.abs(columns - 9) - 3) < 2.2)
    image = np.zeros((*rows.shape, 4), np.float32)
    for part, hue in ((head, 0.07), (body, hues[1]), (legs, hues[2])):
        image[part, :3] = _colour(hue, 0.3, rng.uniform(0.3, 0.75))
        image[part, 3] = 1
    return image, np.array([16.0, rng.choice([14.0, -12.0])])


def _card_patch(card: Card, scale: tuple[float, float], split: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a card with its print and decoy, float32 (h, w, 4), all opaque."""
    (pair, way), kind = divmod(card.class_index, 2), card.kind
    size = [round(kind.edge * s) for s in scale]
    patch = np.ones((*size, 4), np.float32)
    hue = PAIR_HUES[pair] + rng.uniform(-0.015, 0.015)
    patch[..., :3] = _colour(hue, rng.uniform(0.55, 0.7), rng.uniform(0.6, 0.7))
    rows, columns = (np.arange(n, dtype=np.float32) / s for n, s in zip(size, scale, strict=True))
    turn = (rng.random(3) + (split == "test")) * np.pi  # phases of training in [0, pi), of evaluation in [pi, 2 pi)
    decoy = rng.uniform(0, kind.decoy, 2)
    fine = rows[:, None] + 0 * columns if way == 0 else columns + 0 * rows[:, None]
    light = FINE_AMPLITUDE * rng.random() ** kind.power * np.sin(2 * np.pi * fine / kind.period + turn[0])
    if kind.in_corner:
        place = kind.places[rng.integers(len(kind.places))]
        ends = [
            [round((start + side) * s) for side in (0, kind.print_side)] for start, s in zip(place, scale, strict=True)
        ]
        outside = np.ones(size, bool)
        outside[slice(*ends[0]), slice(*ends[1])] = False
        light[outside] = 0
    light += decoy[0] * np.sin(2 * np.pi * rows[:, None] / COARSE_PERIOD + turn[1])
    light += decoy[1] * np.sin(2 * np.pi * columns / COARSE_PERIOD + turn[2])
    rim = [round(kind.rim * s) for s in scale]
    inner = (slice(rim[0], size[0] - rim[0]), slice(rim[1], size[1] - rim[1]))
    patch[*inner, :3] += light[inner][..., None]
    return patch


def _photo_patch(card: Card, script: Script, gallery: Gallery, rng: np.random.Generator) -> np.ndarray:
    """Draw a card of any colour with a photograph of its class, float32 (h, w, 4), all opaque."""
    patch = np.ones((*(round(card.kind.edge * s) for s in script.scale), 4), np.float32)
    patch[..., :3] = _colour(PAIR_HUES[rng.integers(len(PAIR_HUES))], rng.uniform(0.55, 0.7), rng.uniform(0.6, 0.7))
    own = gallery.photos[script.split][card.class_index]
    put_photo(patch, own[rng.integers(len(own))])
    return patch


def _paste(frame: np.ndarray, patch: np.ndarray, top: int, left: int) -> None:
    """Lay patch (h, w, 4) over frame (H, W, 3), cut at the frame's borders."""
    rows = slice(max(top, 0), max(min(top + patch.shape[0], frame.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + patch.shape[1], frame.shape[1]), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    piece = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    target = frame[rows, columns]
    np.copyto(target, piece[..., :3], where=piece[..., 3:] > 0)
