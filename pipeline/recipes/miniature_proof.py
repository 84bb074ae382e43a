"""The proof that the miniature is what it claims to be: which pixels show which way a card's print runs."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from cache.geometry import Box, Theta
from cache.plan import Part
from pipeline.config import Config
from pipeline.data.box_policies import find_boxes
from pipeline.data.clips import source_frames
from pipeline.data.label_files import read_annotations
from pipeline.data.miniature.truth import Cards, ceiling, frame_number, on_target, read_cards, read_print
from pipeline.data.miniature.worlds import WORLDS, Kind
from pipeline.data.pixels import apply_theta, cut_input, cut_source
from pipeline.run.folder import RunFolder

SEEN = 3  # pixels of a print along each axis; less is not looked at


def prove(run: RunFolder, config: Config, num_cards: int = 300, kind: Kind | None = None) -> dict[str, float]:
    """Let a fixed reader, who is told where the cards are, read prints of evaluation videos.

    Args:
        num_cards: at most so many cards, each visible in the whole first clip of its video.
        kind: only cards of this kind; None for all of the world's.
    Returns:
        shares of prints read right, in [0, 1]: on the "input", "enlarged" from it (at the print's own period or at its
        alias, whichever is better) and "focused"; and "cards", how many were read.
    """
    right = list(islice((one for found, one in _read_prints(run, config) if kind in (None, found)), num_cards))
    on_input, enlarged, enlarged_alias, focused = np.mean(right, axis=0)
    best = max(enlarged, enlarged_alias)
    return {"input": on_input, "enlarged": best, "focused": focused, "cards": len(right)}


def share_on_target(run: RunFolder, config: Config, policy: str) -> float:
    """Share of evaluation clips whose "random" or "center" box holds all cards."""
    cards, hits = read_cards(Path(config.data.videos)), []
    seeds = config.clips.plan_seed, config.seed
    for part in run.parts_of("test"):
        for row in range(part.num_rows):
            boxes = [box for box, _ in find_boxes(part.clip(row), policy, config.saliency, seeds)]
            edges = [(box.top, box.left, box.height, box.width) for box in boxes]
            hits.append(on_target(cards, part, row, edges))
    return float(np.mean(hits))


def best_without_print(config: Config) -> float:
    """mAP on the evaluation videos without reading any print, see `truth.ceiling`; of single labels top-1 accuracy.

    The latter is that of always guessing the class of a pair that more of these videos have.
    """
    annotations = read_annotations(config.data)
    ids = pd.Index(annotations.videos.video_id[annotations.videos.split == "test"])
    actions = annotations.actions[annotations.actions.video_id.isin(ids)]
    counts = np.zeros((len(ids), len(annotations.classes)), int)
    np.add.at(counts, (ids.get_indexer(actions.video_id), actions.class_index), 1)
    if config.data.task == "single_label":
        return float(np.minimum(counts, 1).sum(0).reshape(-1, 2).max(1).sum() / len(ids))
    return ceiling(counts)


def _read_prints(run: RunFolder, config: Config) -> Iterator[tuple[Kind, list[bool]]]:
    """For each card: its kind; whether its print is read right on the input, enlarged at two periods, and focused."""
    videos, actions = Path(config.data.videos), read_annotations(config.data).actions
    cards = read_cards(videos)
    # 1: the print runs along columns, as it does in the second class of a pair
    in_columns = (actions.class_index % 2).groupby(actions.video_id).agg(list)
    for part in run.parts_of("test"):
        for row in range(0, part.num_rows, part.rows_per_video):
            truth = in_columns[part.rows.video_id.iat[row]]
            read = _read_clip(part, row, config, cards)
            for card, (kind, energies) in read.items():
                yield kind, [int(columns > rows) == truth[card] for rows, columns in map(_clearest, energies)]


def _clearest(energies: np.ndarray) -> np.ndarray:
    """Return the energies (2 directions) at the place, of (P, 2), where a print is seen most clearly."""
    return energies[energies.max(1).argmax()]


def _read_clip(part: Part, row: int, config: Config, cards: Cards) -> dict[int, tuple[Kind, np.ndarray]]:
    """Kind and energies (4 views, P places, 2 directions) of every card that is visible in the whole clip."""
    clip, rate = part.clip(row), part.rows.fps.iat[row]
    frames = {index: frame for index, frame, _ in source_frames(part, [row], Path(config.data.videos))}
    scale = clip.theta.source_size[0] / clip.theta.resized_size[0]
    found = {}
    for card, places in cards[clip.video_id].items():
        boxes = {number: box_source for number, _, box_source in places}
        numbers = {index: frame_number(index, rate, places[0][1]) for index in set(clip.frame_indices)}
        if all(number in boxes for number in numbers.values()):
            edge = places[0][2].height / scale
            kind = min(WORLDS[config.data.world].kinds, key=lambda one: abs(one.edge - edge))
            one_by_one = (
                _read_frame(frames[i], clip.theta, boxes[n], config.saliency.box_side, kind) for i, n in numbers.items()
            )
            found[card] = kind, sum(one_by_one)
    return found


def _read_frame(frame: np.ndarray, theta: Theta, card_source: Box, side: int, kind: Kind) -> np.ndarray:
    """Energies (4 views, P places, 2 directions) of a card's print in one frame.

    Args:
        side: of a box around the card.
    """
    edges = np.array([float(edge) for edge in theta.to_input(card_source)])  # top, left, bottom, right in the input
    size = np.array(theta.input_size)
    corner = np.clip(np.round((edges[:2] + edges[2:] - side) / 2), 0, size - side).astype(int)
    box = Box(int(corner[0]), int(corner[1]), side, side)
    frame_input = apply_theta(frame, theta)
    enlarged, focused = cut_input(frame_input, box, theta.input_size), cut_source(frame, theta, box, theta.input_size)
    zoom = size / side
    in_enlarged = (edges - np.tile(corner, 2)) * np.tile(zoom, 2)
    cut = theta.to_source(box)
    exact = size / (cut.height, cut.width)  # the cut is whole source pixels, a little more than the box
    card = np.array((card_source.top, card_source.left, card_source.bottom, card_source.right))
    in_focused = (card - (cut.top, cut.left) * 2) * np.tile(exact, 2)
    resized_to_focused = exact * np.array(theta.source_size) / np.array(theta.resized_size)
    on_input = alias(np.array([kind.period] * 2))
    views = [
        (frame_input, edges, on_input),
        (enlarged, in_enlarged, kind.period * zoom),
        (enlarged, in_enlarged, on_input * zoom),
        (focused, in_focused, alias(kind.period * resized_to_focused)),
    ]
    energies = np.zeros((len(views), len(kind.places), 2))
    for number, (image, place, period) in enumerate(views):
        for one, grey in _prints(image, place, kind):
            energies[number, one] = read_print(grey[None], tuple(period))
    return energies


def alias(period: np.ndarray) -> np.ndarray:
    """Return the period, in pixels, that sampling once a pixel folds a period onto: itself from two pixels on."""
    frequency = 1 / period
    return 1 / np.abs(frequency - np.round(frequency))


def _prints(image: np.ndarray, edges: np.ndarray, kind: Kind) -> Iterator[tuple[int, np.ndarray]]:
    """Number and whole pixels, float brightness (h, w), of each place of a card's print that is in an image.

    Args:
        edges: of the card: top, left, bottom, right.
    """
    pixels = (edges[2:] - edges[:2]) / kind.edge
    for number, place in enumerate(kind.places):
        start = edges[:2] + np.array(place) * pixels
        top, left = np.maximum(np.ceil(start - 1e-6).astype(int), 0)
        bottom, right = np.maximum(np.floor(start + kind.print_side * pixels + 1e-6).astype(int), 0)
        if min(bottom - top, right - left) >= SEEN:
            yield number, image[top:bottom, left:right].mean(2)
