"""The proof on decoded files: only source pixels carry the print, says a reader who knows where the cards are."""

import numpy as np

from cache.geometry import Box, Theta
from cache.plan import Part
from pipeline.data.box_policies import find_box
from pipeline.data.clips import source_frames
from pipeline.data.label_files import read_annotations
from pipeline.data.miniature.draw import FINE_PERIOD
from pipeline.data.miniature.script import CARD, PRINT
from pipeline.data.miniature.truth import Cards, ceiling, frame_number, on_target, read_cards, read_print
from pipeline.data.pixels import apply_theta, cut_input, cut_source
from pipeline.run.folder import Workspace

RIM = (CARD - PRINT) / 2 / CARD  # share of a card's edge on either side of its print


def prove(workspace: Workspace, num_cards: int = 300) -> dict[str, float]:
    """Share of prints that the fixed reader reads right on each view of the evaluation videos.

    Args:
        num_cards: cards that are visible in the whole first clip of their video; fewer where there are no more.
    Returns:
        "input", "enlarged" (the better of the print's own period and of its alias) and "focused", each in [0, 1],
        and "cards", how many were read.
    """
    cards, right = read_cards(workspace.videos_root), []
    ways = _ways(workspace)
    for part in workspace.parts_of("test"):
        for row in range(0, part.num_rows, part.rows_per_video):
            for card, guesses in _read_clip(workspace, part, row, cards).items():
                right.append([guess == ways[part.rows.video_id.iat[row]][card] for guess in guesses])
                if len(right) == num_cards:
                    return _shares(right)
    return _shares(right)


def share_on_target(workspace: Workspace, policy: str) -> float:
    """`boxes_on_target` of boxes without saliency ("random", "center"), found here and not stored."""
    cards = read_cards(workspace.videos_root)
    hits = []
    for part in workspace.parts_of("test"):
        for row in range(part.num_rows):
            box, _ = find_box(workspace.config, part.clip(row), policy, None)
            hits.append(on_target(cards, part, row, (box.top, box.left, box.height, box.width)))
    return float(np.mean(hits))


def best_without_print(workspace: Workspace) -> float:
    """`miniature_truth.ceiling` of the evaluation videos, from their labels alone."""
    annotations = read_annotations(workspace.config)
    ids = annotations.videos.video_id[annotations.videos.split == "test"].tolist()
    rows = {video_id: row for row, video_id in enumerate(ids)}
    counts = np.zeros((len(ids), len(annotations.classes)), int)
    for action in annotations.actions.itertuples(index=False):
        if action.video_id in rows:
            counts[rows[action.video_id], action.class_index] += 1
    return ceiling(counts)


def _shares(right: list[list[bool]]) -> dict[str, float]:
    on_input, enlarged, enlarged_alias, focused = np.mean(right, axis=0)
    best = max(enlarged, enlarged_alias)
    return {"input": on_input, "enlarged": best, "focused": focused, "cards": len(right)}


def _ways(workspace: Workspace) -> dict[str, list[int]]:
    """video_id -> for each card 0 (its print runs along rows) or 1 (along columns)."""
    found: dict[str, list[int]] = {}
    for action in read_annotations(workspace.config).actions.itertuples(index=False):
        found.setdefault(action.video_id, []).append(action.class_index % 2)
    return found


def _read_clip(workspace: Workspace, part: Part, row: int, cards: Cards) -> dict[int, list[int]]:
    """Guesses for every card that is visible in the whole clip: on the input, enlarged at two periods, focused."""
    clip, rate = part.clip(row), part.rows.fps.iat[row]
    frames = {index: frame for index, frame, _ in source_frames(workspace, part, [row])}
    guesses = {}
    for card, places in cards[clip.video_id].items():
        where = {number: place for number, _, place in places}
        wanted = {index: frame_number(index, rate, places[0][1]) for index in set(clip.frame_indices)}
        if not all(number in where for number in wanted.values()):
            continue
        energies = np.zeros((4, 2))
        for index, number in wanted.items():
            energies += _read_frame(frames[index], clip.theta, where[number], workspace.config.saliency.box_side)
        guesses[card] = [int(columns > rows) for rows, columns in energies]
    return guesses


def _read_frame(frame: np.ndarray, theta: Theta, card_source: Box, side: int) -> np.ndarray:
    """Energies (4 views, 2 ways) of one card's print in one frame."""
    edges = np.array([float(edge) for edge in theta.to_input(card_source)])  # top, left, bottom, right in the input
    size = np.array(theta.input_size)
    corner = np.clip(np.round((edges[:2] + edges[2:] - side) / 2), 0, size - side).astype(int)
    box = Box(int(corner[0]), int(corner[1]), side, side)
    frame_input = apply_theta(frame, theta)
    enlarged = cut_input(frame_input, box, theta.input_size)
    focused = cut_source(frame, theta, box, theta.input_size)
    zoom = size / side
    cut = theta.to_source(box)
    exact = size / (cut.height, cut.width)  # the cut is whole source pixels, a little more than the box
    low, high = (
        np.array(edge) for edge in ((card_source.top, card_source.left), (card_source.bottom, card_source.right))
    )
    in_focus = np.concatenate([(low - (cut.top, cut.left)) * exact, (high - (cut.top, cut.left)) * exact])
    in_enlarged = np.concatenate([(edges[:2] - corner) * zoom, (edges[2:] - corner) * zoom])
    resized_to_focus = exact * np.array(theta.source_size) / np.array(theta.resized_size)
    alias = 1 / (1 - 1 / FINE_PERIOD)  # 3 pixels of the input: sampling folds 1.5 onto it
    views = [
        (frame_input, edges, (abs(alias),) * 2),
        (enlarged, in_enlarged, tuple(FINE_PERIOD * zoom)),
        (enlarged, in_enlarged, tuple(abs(alias) * zoom)),
        (focused, in_focus, tuple(FINE_PERIOD * resized_to_focus)),
    ]
    return np.array([read_print(_print(image, place)[None], period) for image, place, period in views])


def _print(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Whole pixels of the print inside a card's edges (top, left, bottom, right), as float brightness (h, w)."""
    rim = (edges[2:] - edges[:2]) * RIM
    top, left = np.ceil(edges[:2] + rim - 1e-6).astype(int)
    bottom, right = np.floor(edges[2:] - rim + 1e-6).astype(int)
    return image[max(top, 0) : bottom, max(left, 0) : right].mean(2)
