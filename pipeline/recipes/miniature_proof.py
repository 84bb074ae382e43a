"""The proof that the miniature is what it claims to be: only the source pixels show which way a card's print runs."""

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
from pipeline.data.miniature.draw import FINE_PERIOD
from pipeline.data.miniature.script import CARD, PRINT
from pipeline.data.miniature.truth import Cards, ceiling, frame_number, on_target, read_cards, read_print
from pipeline.data.pixels import apply_theta, cut_input, cut_source
from pipeline.run.folder import RunFolder

RIM = (CARD - PRINT) / 2 / CARD  # share of a card's edge on either side of its print
ALIAS = abs(1 / (1 - 1 / FINE_PERIOD))  # input pixels: sampling folds the print's period of 1.5 onto 3


def prove(run: RunFolder, config: Config, num_cards: int = 300) -> dict[str, float]:
    """Let a fixed reader, who is told where the cards are, read prints of evaluation videos.

    Args:
        num_cards: at most so many cards, each visible in the whole first clip of its video.
    Returns:
        shares of prints read right, in [0, 1]: on the "input", "enlarged" from it (at the print's own period or at its
        alias, whichever is better) and "focused"; and "cards", how many were read.
    """
    right = list(islice(_read_prints(run, config), num_cards))
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


def _read_prints(run: RunFolder, config: Config) -> Iterator[list[bool]]:
    """For each card: whether its print is read right on the input, enlarged at two periods, and focused."""
    videos, actions = Path(config.data.videos), read_annotations(config.data).actions
    cards = read_cards(videos)
    # 1: the print runs along columns, as it does in the second class of a pair
    in_columns = (actions.class_index % 2).groupby(actions.video_id).agg(list)
    for part in run.parts_of("test"):
        for row in range(0, part.num_rows, part.rows_per_video):
            truth = in_columns[part.rows.video_id.iat[row]]
            for card, energies in _read_clip(part, row, videos, cards, config.saliency.box_side).items():
                yield [int(along_columns > along_rows) == truth[card] for along_rows, along_columns in energies]


def _read_clip(part: Part, row: int, videos: Path, cards: Cards, side: int) -> dict[int, np.ndarray]:
    """Energies (4 views, 2 directions) of the print of every card that is visible in the whole clip."""
    clip, rate = part.clip(row), part.rows.fps.iat[row]
    frames = {index: frame for index, frame, _ in source_frames(part, [row], videos)}
    found = {}
    for card, places in cards[clip.video_id].items():
        boxes = {number: box_source for number, _, box_source in places}
        numbers = {index: frame_number(index, rate, places[0][1]) for index in set(clip.frame_indices)}
        if all(number in boxes for number in numbers.values()):
            found[card] = sum(_read_frame(frames[i], clip.theta, boxes[n], side) for i, n in numbers.items())
    return found


def _read_frame(frame: np.ndarray, theta: Theta, card_source: Box, side: int) -> np.ndarray:
    """Energies (4 views, 2 directions) of a card's print in one frame; `side` is that of a box around the card."""
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
    views = [
        (frame_input, edges, (ALIAS, ALIAS)),
        (enlarged, in_enlarged, tuple(FINE_PERIOD * zoom)),
        (enlarged, in_enlarged, tuple(ALIAS * zoom)),
        (focused, in_focused, tuple(FINE_PERIOD * resized_to_focused)),
    ]
    return np.array([read_print(_print(image, place)[None], period) for image, place, period in views])


def _print(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Whole pixels of the print inside a card's edges (top, left, bottom, right), as float brightness (h, w)."""
    rim = (edges[2:] - edges[:2]) * RIM
    top, left = np.ceil(edges[:2] + rim - 1e-6).astype(int)
    bottom, right = np.floor(edges[2:] - rim + 1e-6).astype(int)
    return image[max(top, 0) : bottom, max(left, 0) : right].mean(2)
