"""Where the boxes of a clip lie. Stage 1, training on the fly and predictions ask the same function: all cut the same.

A policy says what the boxes are found in: a saliency map, chance, the middle, a table of the user's. A rule of
`saliency.box_rule` says how many are taken from it, and of which sides.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import cycle
from typing import NamedTuple

import numpy as np

from cache.geometry import Box, Clip
from models.box_search import best_box
from pipeline.box_settings import num_segments
from pipeline.config import Policy, Saliency
from pipeline.data.own_boxes import OwnRow, mean_centre
from pipeline.data.sampling import row_generator

Size = tuple[int, int]  # height, width


class Source(NamedTuple):
    """What boxes are found in; every box is one of the input frame, within it."""

    best: Callable[[int], Box]  # side of the box -> the one box
    another: Callable[[int, Sequence[Box]], Box]  # side, boxes so far -> the best one beside them
    share: Callable[[Box], Fraction] | None = None  # of all that was found, inside a box; None where nothing was


def find_boxes(
    clip: Clip,
    policy: Policy,
    saliency: Saliency,
    seeds: tuple[int, int],
    evidence: np.ndarray | list[OwnRow] | list[list[OwnRow]] | None = None,
) -> list[tuple[Box, float]]:
    """Find the boxes of one clip.

    Args:
        policy: "random" and "center" need no evidence; the others take boxes from a map, "own" from rows of a table.
        saliency: `box_rule` and what it uses, `time_segments`, `box_margin`, `box_jitter` (0 for clips that are not
            trained on).
        seeds: of "random" boxes, those of the plan and of the training; of `box_jitter` the plan's.
        evidence: the policy's map as stored, uint16 (H_in, W_in), or the rows of the table at the clip's time; with
            several `time_segments` maps (segments, H_in, W_in), or the rows at the time of each.
    Returns:
        box_input, and the share of the map's sum inside it (NaN without a map), of each box, or of each segment's box.
    """
    size, is_map = clip.theta.input_size, isinstance(evidence, np.ndarray)
    moves_in_time = num_segments(policy, saliency) > 1
    if moves_in_time:
        sources = [_found_in(one, size) for one in _by_segment(evidence)]
        boxes = smoothed([source.best(saliency.box_side) for source in sources])
    else:
        source = _at_random(clip, seeds) if policy == "random" else _found_in(evidence, size)
        boxes = RULES[saliency.box_rule](source, saliency, size)
        sources = [source] * len(boxes)
    boxes = [_grown(box, saliency.box_margin, size) for box in boxes]
    if most := saliency.box_jitter:
        rng = row_generator(seeds[0], f"{clip.video_id} jitter", clip.clip_index, clip.aug_index)
        moves = [map(int, rng.integers(-most, most + 1, 2)) for _ in (boxes[:1] if moves_in_time else boxes)]
        boxes = [_moved(box, *move, size) for box, move in zip(boxes, cycle(map(tuple, moves)), strict=False)]
    found = zip(sources, boxes, strict=True)
    return [(box, float(source.share(box)) if is_map and source.share else math.nan) for source, box in found]


def fixed(source: Source, saliency: Saliency, size: Size) -> list[Box]:
    """Take the best box of box_side, as the paper does (eq. 6)."""
    return [source.best(saliency.box_side)]


def top_k(source: Source, saliency: Saliency, size: Size) -> list[Box]:
    """Take num_boxes boxes of box_side, each the best one after what those before it cover is set to zero.

    Where nothing is left, the first box comes again: it shows nothing new, and the largest logit stays what it is.
    """
    boxes: list[Box] = []
    for _ in range(saliency.num_boxes):
        boxes.append(source.another(saliency.box_side, boxes))
    return boxes


def scale(source: Source, saliency: Saliency, size: Size) -> list[Box]:
    """Take one box, of the side s among box_sides whose best box has the largest excess over a uniform map.

        excess(s) = (sum inside the box) / (sum of the map) - s^2 / (H_in W_in)

    This is the discrepancy of spatial scan statistics (Agarwal et al. 2006, "Spatial scan statistics"), with an even
    map as the baseline. It has nothing to be tuned: it is 0 for an empty box, the whole frame and on an even map, it
    grows with a box as long as what is added is above the map's mean, and so ends at the edge of the bright region. Of
    equals the smallest side; chance and the middle, which have no map, take the middle one.
    """
    sides = sorted(saliency.box_sides)
    if source.share is None:
        return [source.best(_middle(sides))]
    boxes = [source.best(side) for side in sides]
    return [max(boxes, key=lambda box: source.share(box) - Fraction(box.height * box.width, size[0] * size[1]))]


def nested(source: Source, saliency: Saliency, size: Size) -> list[Box]:
    """Take a box of every one of box_sides, the smallest first, around the centre of the best box of the middle side.

    Of an even number of sides it is the lower one of the two in the middle. A box that would leave the frame is moved
    inside.
    """
    sides = sorted(saliency.box_sides)
    chosen = source.best(_middle(sides))
    tops, lefts = ([low + (chosen.height - side) // 2 for side in sides] for low in (chosen.top, chosen.left))
    return [_inside(top, left, side, side, size) for top, left, side in zip(tops, lefts, sides, strict=True)]


def smoothed(boxes: list[Box]) -> list[Box]:
    """Move the boxes of successive segments, all of one size, towards their neighbours, with the binomial kernel:

        c'(s) = (c(s - 1) + 2 c(s) + c(s + 1)) / 4,   c(-1) = c(0),   c(n) = c(n - 1)

    of their centres and so, for one size, of their corners; in whole pixels, halves rounded up. A box that stands still
    or moves evenly stays where it is, but for the ends of its way; one that leaps for one segment leaps half as far.
    """
    kernel = list(zip([boxes[0], *boxes[:-1]], boxes, [*boxes[1:], boxes[-1]], strict=True))
    tops = [(before.top + 2 * box.top + after.top + 2) // 4 for before, box, after in kernel]
    lefts = [(before.left + 2 * box.left + after.left + 2) // 4 for before, box, after in kernel]
    return [replace(box, top=top, left=left) for box, top, left in zip(boxes, tops, lefts, strict=True)]


RULES = {"fixed": fixed, "top-k": top_k, "scale": scale, "nested": nested}  # the names of config.BoxRule


def _by_segment(evidence: np.ndarray | list[list[OwnRow]]) -> list[np.ndarray | list[OwnRow]]:
    """Return what the box of each segment is found in; where it has nothing, all that its clip has."""
    if isinstance(evidence, np.ndarray):
        whole = evidence.max(0)
        return [one if one.any() else whole for one in evidence]
    whole = [row for rows in evidence for row in rows]
    return [rows or whole for rows in evidence]


def _found_in(evidence: np.ndarray | list[OwnRow] | None, size: Size) -> Source:
    if isinstance(evidence, np.ndarray):
        return _of_map(evidence)
    return _of_table(evidence, size) if evidence else _in_the_middle(size)


def _of_map(codes: np.ndarray) -> Source:
    total = int(codes.sum(dtype=np.int64))

    def another(side: int, taken: Sequence[Box]) -> Box:
        rest = codes
        if taken:
            rest = codes.copy()
            for box in taken:
                rest[box.top : box.bottom, box.left : box.right] = 0
            if not rest.any():
                return taken[0]
        top, left, _ = best_box(rest, side, side)
        return Box(top, left, side, side)

    def share(box: Box) -> Fraction:
        return Fraction(int(codes[box.top : box.bottom, box.left : box.right].sum(dtype=np.int64)), total)

    return Source(lambda side: another(side, ()), another, share if total else None)


def _of_table(rows: list[OwnRow], size: Size) -> Source:
    """Boxes around the mean centre of some rows, which count by their weight.

    "Another" one is around the row with the largest weight, of equals the first in the table, among those whose centre
    no box has yet, together with the rows whose centres lie within the box around it.
    """

    def another(side: int, taken: Sequence[Box]) -> Box:
        left = [row for row in rows if not any(_holds(box, row, size) for box in taken)]
        if not left:
            return taken[0]
        around = _around([max(left, key=lambda row: row.weight)], side, size)
        return _around([row for row in left if _holds(around, row, size)], side, size)

    def share(box: Box) -> Fraction:
        weights = [Fraction(row.weight) for row in rows]
        return sum(one * _covered(box, row) for one, row in zip(weights, rows, strict=True)) / sum(weights)

    return Source(lambda side: _around(rows, side, size), another, share)


def _at_random(clip: Clip, seeds: tuple[int, int]) -> Source:
    # a generator of its own: the row's own one has already chosen window, crop and flip
    plan_seed, seed = seeds
    what = f"{clip.video_id} box {seed}" if seed else f"{clip.video_id} box"
    rng = row_generator(plan_seed, what, clip.clip_index, clip.aug_index)

    def draw(side: int, taken: Sequence[Box] = ()) -> Box:
        top, left = (int(rng.integers(0, length - side + 1)) for length in clip.theta.input_size)
        return Box(top, left, side, side)

    return Source(draw, draw)


def _in_the_middle(size: Size) -> Source:
    def middle(side: int, taken: Sequence[Box] = ()) -> Box:
        return Box((size[0] - side) // 2, (size[1] - side) // 2, side, side)

    return Source(middle, middle)


def _middle(sides: list[int]) -> int:
    return sides[(len(sides) - 1) // 2]


def _around(rows: list[OwnRow], side: int, size: Size) -> Box:
    top, left = (math.floor(centre - side / 2 + 0.5) for centre in mean_centre(rows))
    return _inside(top, left, side, side, size)


def _holds(box: Box, row: OwnRow, size: Size) -> bool:
    """Say whether a box holds the centre of a row, moved to the edge of the frame where it lies outside."""
    y, x = (min(max(0, centre), length - 1) for centre, length in zip(mean_centre([row]), size, strict=True))
    return box.top <= y < box.bottom and box.left <= x < box.right


def _covered(box: Box, row: OwnRow) -> Fraction:
    """Return the share of a row's area that lies in a box."""
    top, left, bottom, right = row.edges
    rows, columns = min(bottom, box.bottom) - max(top, box.top), min(right, box.right) - max(left, box.left)
    return Fraction(max(rows, 0) * max(columns, 0)) / ((bottom - top) * (right - left))


def _grown(box: Box, margin: float, size: Size) -> Box:
    """Add a share of its side on every side of a box, in whole pixels."""
    if not margin:
        return box
    rows, columns = round(margin * box.height), round(margin * box.width)
    return _inside(box.top - rows, box.left - columns, box.height + 2 * rows, box.width + 2 * columns, size)


def _moved(box: Box, down: int, right: int, size: Size) -> Box:
    return _inside(box.top + down, box.left + right, box.height, box.width, size)


def _inside(top: int, left: int, height: int, width: int, size: Size) -> Box:
    """Return a box moved into the frame, and cut down to it where it is larger."""
    height, width = min(height, size[0]), min(width, size[1])
    return Box(min(max(0, top), size[0] - height), min(max(0, left), size[1] - width), height, width)
