"""The gallery of the page: which clips it shows, and what it shows of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from pipeline.data.annotations import Annotations
from pipeline.report.chosen_stores import Sources
from pipeline.report.pictures import data_uri, evenly, film, veil
from pipeline.report.scores import Result

FRAMES, SIDE = 8, 224  # of a film on the page: frames at most, pixels of the longer side at most
MOST_CLASSES = 6  # scores shown of a clip


@dataclass(frozen=True)
class ScoreChange:
    """Scores of a video for one class, in [0, 1], by Base and by the fusion model, and whether it has the label."""

    name: str
    before: float
    after: float
    label: bool


@dataclass(frozen=True)
class Look:
    """A box of a clip, which may move from frame to frame, as the page draws it."""

    places: list[str]  # in the input frame, as CSS: of each frame that is shown, or one for all
    focus: str  # the film of its focused volume, as a data address
    height: int  # source pixels
    width: int
    share: float  # of the saliency inside, of a moving box the mean; NaN without a map


def candidates(sources: Sources, split: str, gains: Mapping[str, float]) -> pd.DataFrame:
    """Clips that have all pictures, by global row.

    Args:
        gains: by video id, see `scores.video_gains`.
    Returns:
        `run.index` with gain, share (of saliency in the box) and entropy; NaN if unknown.
    """
    table = sources.run.index.loc[sources.rows_done("boxes", "context", "crops", split=split)]
    gain = table.video_id.map(gains).astype(float)
    return table.assign(gain=gain, share=table.saliency_share)


def choose(table: pd.DataFrame, count: int) -> list[int]:
    """Rows of the clips to show, taken in turn: highest and lowest gain, entropy and share, and evenly from all.

    Gains belong to videos: of each video the clip counts whose box holds most saliency. Unknown values do not count.
    """
    turns = []
    for column, falling in product(("gain", "entropy", "share"), (True, False)):
        known = table[table[column].notna()]
        if column == "gain":
            known = known.sort_values("share", ascending=False, kind="stable").drop_duplicates("video_id")
        if len(known):
            turns.append(iter(known.sort_values(column, ascending=not falling, kind="stable").index.tolist()))
    turns.append(iter(table.index[evenly(len(table), count)].tolist()))
    chosen: dict[int, None] = {}
    while turns and len(chosen) < min(count, len(table)):
        turn = turns.pop(0)
        row = next((row for row in turn if row not in chosen), None)
        if row is not None:
            chosen[row] = None
            turns.append(turn)
    return list(chosen)


def with_pictures(sources: Sources, table: pd.DataFrame) -> pd.DataFrame:
    """Add to clips, rows of `candidates`, what the page draws.

    Returns:
        the table with more columns: clip (its name); looks, see `Look`; the films context and saliency ("" without a
        map) as data addresses; their frames and seconds.
    """
    run, with_map, found = sources.run, set(sources.rows_done("maps").tolist()), []
    for row, facts in table.iterrows():
        context, focus = run.context(row), run.focus(row)
        focus = focus[None] if focus.ndim == 4 else focus  # a volume for each box
        chosen, segments = evenly(len(context), FRAMES), sources.segments
        at = [frame * segments // len(context) for frame in chosen] if segments > 1 else []
        codes = run.read("maps", "codes", [row]) if row in with_map else ()  # without their scale, which does not show
        codes = codes.max(1) if row in with_map and codes.ndim == 4 else codes  # over segments of time
        found.append(
            {
                "clip": clip_name(facts),
                "frames": len(chosen),
                "seconds": len(context) / facts.fps,
                "context": data_uri(film(context[chosen], SIDE)),
                "looks": _looks(run.boxes(row), context.shape[1:3], [film(one[chosen], SIDE) for one in focus], at),
                "saliency": data_uri(film(veil(codes[0])[None], SIDE)) if row in with_map else "",
            }
        )
    return table.join(pd.DataFrame(found, index=table.index))


def _looks(boxes: pd.DataFrame, size: tuple[int, int], films: list[np.ndarray], at: list[int]) -> list[Look]:
    """The boxes of a clip, and the film of the focused volume of each, in an input of size (height, width).

    Args:
        at: the segment of time of every frame that is shown, whose boxes are one look; [] where a box holds for all.
    """
    places = []
    for box in boxes.itertuples():
        place = {"--l": box.box_input_left / size[1], "--t": box.box_input_top / size[0]}
        place |= {"--w": box.box_input_width / size[1], "--h": box.box_input_height / size[0]}
        places.append(";".join(f"{name}:{value:.5f}" for name, value in place.items()))
    by_look = [[places[segment] for segment in at]] if at else [[place] for place in places]
    shares = [boxes.saliency_share.mean(skipna=False)] if at else boxes.saliency_share
    extents = zip(boxes.box_source_height, boxes.box_source_width, shares, strict=not at)
    return [Look(*one, data_uri(focus), *facts) for *one, focus, facts in zip(by_look, films, extents, strict=True)]


def clip_name(facts: pd.Series) -> str:
    """What a row of the plan is called: an evaluation clip, or a stored augmentation of a training video."""
    return f"clip {facts.clip_index}" if facts.split == "test" else f"augmentation {facts.aug_index}"


def labels_of(annotations: Annotations, video_id: str) -> list[str]:
    """Names of the classes of a video, in the order of the classes."""
    return [annotations.classes[index] for index in annotations.video_targets([video_id])[0].nonzero()[0]]


def score_changes(result: Result | None, base: Result | None, classes: list[str], video_id: str) -> list[ScoreChange]:
    """The probabilities of a video's labels, then the largest other changes; none where a result lacks the video."""
    if result is None or base is None or video_id not in result.ids:
        return []
    place = result.ids.index(video_id)
    before, after, labels = base.probabilities[place], result.probabilities[place], result.targets[place].astype(bool)
    order = sorted(range(len(classes)), key=lambda c: (not labels[c], -abs(after[c] - before[c])))[:MOST_CLASSES]
    return [ScoreChange(classes[c], float(before[c]), float(after[c]), bool(labels[c])) for c in order]
