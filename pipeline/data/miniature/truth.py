"""What is known about the miniature beforehand: where the cards are, who can read them, how far guessing gets."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from cache.errors import relative_to
from cache.geometry import Box, Theta, boxes_by_frame
from cache.plan import Part
from cache.table_files import read_csv
from pipeline.errors import StageError
from pipeline.metrics import mean_average_precision

VISIBLE_SHARE = 0.75  # of a card's area, averaged over frames, that a box must hold
CARD_COLUMNS = ("video_id", "card", "frame", "fps", "top", "left", "height", "width")  # source pixels, source frames
Cards = dict[str, dict[int, list[tuple[int, int, Box]]]]


@cache
def read_cards(root: Path) -> Cards:
    """Read cards.csv: video_id -> card -> [(source frame, fps, box_source)].

    Raises:
        StageError: it is not there. DamagedError: it is not what was generated.
    """
    path, found = root / "cards.csv", {}
    if not path.is_file():
        raise StageError(f"{path}: not there{relative_to(path)}; `prepare` makes the miniature again")
    for row in read_csv(path, CARD_COLUMNS, CARD_COLUMNS[1:]).itertuples(index=False):
        box = Box(int(row.top), int(row.left), int(row.height), int(row.width))
        found.setdefault(row.video_id, {}).setdefault(row.card, []).append((row.frame, row.fps, box))
    return found


def on_target(cards: Cards, part: Part, row: int, box_input: Sequence, segments: int = 1) -> bool:
    """Say whether boxes hold every card that is visible in a clip: at least 75 % of its area, on average over frames.

    Args:
        box_input: (top, left, height, width) in the input frame; of several boxes (k, 4), of which one must hold it.
        segments: of time; of several, each has one of the boxes, which counts in its frames.
    """
    clip, rate = part.clip(row), part.rows.fps.iat[row]
    boxes = [Box(*edges) for edges in np.reshape(box_input, (-1, 4)).astype(int).tolist()]
    looks = boxes_by_frame(boxes, len(clip.frame_indices), segments)
    for places in cards[clip.video_id].values():
        fps = places[0][1]
        where = {frame: place for frame, _, place in places}
        frames = [frame_number(index, rate, fps) for index in clip.frame_indices]
        there = [(number, where[frame]) for number, frame in enumerate(frames) if frame in where]
        shares = [[_share_inside(place, look[number], clip.theta) for number, place in there] for look in looks]
        if there and np.mean(shares, axis=1).max() < VISIBLE_SHARE:
            return False
    return True


def frame_number(index: int, rate: float, fps: int) -> int:
    """Return the source frame on screen at index / rate seconds, at a constant fps."""
    return int(index / rate * fps + 1e-6)  # the small term keeps 8 of 24 from becoming 7


def _share_inside(card_source: Box, box: Box, theta: Theta) -> float:
    """Return the share of a card's area, as the input frame shows it, that lies in the box."""
    top, left, bottom, right = map(float, theta.to_input(card_source))
    rows = max(0.0, min(bottom, box.bottom) - max(top, box.top))
    columns = max(0.0, min(right, box.right) - max(left, box.left))
    return rows * columns / ((bottom - top) * (right - left))


def ceiling(class_counts: np.ndarray, draws: int = 200, seed: int = 0) -> float:
    """Return the mAP of someone who sees how many cards of each pair a video has, and cannot read the print.

    The best such scores are the chances that at least one of the k cards of a pair has the class, 1 - 2^-k. Ties are
    broken by the order of videos, so this is the mean over `draws` random orders.

    Args:
        class_counts: int (V, 10), cards of each class in each video; classes 2p and 2p + 1 are a pair.
    """
    pairs = class_counts.reshape(len(class_counts), -1, 2).sum(2)
    scores = np.repeat(1 - 0.5**pairs, 2, axis=1)
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(scores)) for _ in range(draws))
    return float(np.mean([mean_average_precision(scores[o], class_counts[o] > 0).map for o in orders]))


def read_print(grey: np.ndarray, period: tuple[float, float]) -> tuple[float, float]:
    """Measure the energy of a print along rows and along columns at a known period.

    Args:
        grey: float (T, h, w), the print and nothing else.
        period: in pixels of `grey`, (along y, along x).
    Returns:
        (energy of a grating whose lines are rows, of one whose lines are columns)
    """
    return _energy(grey, period[0]), _energy(grey.transpose(0, 2, 1), period[1])


def _energy(grey: np.ndarray, period: float) -> float:
    """Return the mean energy at 1 / period along the second axis, with a Hann window."""
    length = grey.shape[1]
    wave = np.hanning(length + 2)[1:-1] * np.exp(-2j * np.pi * np.arange(length) / period)
    centred = grey - grey.mean(1, keepdims=True)
    return float((np.abs(np.einsum("tyx,y->tx", centred, wave)) ** 2).mean())
