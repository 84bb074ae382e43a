"""The gallery of the page: which clips it shows, and what it shows of each."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cache.geometry import Box
from pipeline.report.chosen_stores import Sources
from pipeline.report.pictures import data_uri, evenly, film, veil
from pipeline.report.scores import Result

FRAMES, SIDE = 8, 224  # of a film on the page: frames at most, pixels of the longer side at most
MOST_CLASSES = 6  # scores shown of a clip
# what the clips shown are the extremes of: column, and whether the largest values are meant
ENDS = (
    ("gain", True), ("gain", False), ("entropy", True), ("entropy", False), ("share", True), ("share", False),
)  # fmt: skip


@dataclass(frozen=True)
class ScoreChange:
    """Scores of a video for one class, in [0, 1], by Base and by the fusion model; whether it has the label."""

    name: str
    before: float
    after: float
    label: bool


@dataclass(frozen=True, eq=False)
class Card:
    """One clip of the gallery. Films are addresses of pictures with `frames` frames side by side.

    `box` is (left, top, width, height) in shares of the input frame; gain, entropy and share are NaN where unknown.
    """

    row: int
    video_id: str
    clip: str
    labels: list[str]
    changes: list[ScoreChange]
    gain: float
    entropy: float
    share: float
    box: tuple[float, ...]
    source_size: tuple[int, int]
    box_source: Box
    frames: int
    seconds: float
    context: str
    focus: str
    saliency: str


def candidates(sources: Sources, split: str, gains: Mapping[str, float]) -> pd.DataFrame:
    """Clips that have all pictures, by global row.

    Args:
        gains: by video id, see `scores.video_gains`.
    Returns:
        the plan's columns, gain, entropy (-sum y log y) and saliency share; NaN where one is unknown.
    """
    rows = sources.rows_done("boxes", "context", "crops", split=split)
    parts = [part.rows.assign(row=np.arange(part.offset, part.offset + part.num_rows)) for part in sources.run.parts]
    table = pd.concat(parts).set_index("row").loc[rows]
    share = sources.run.read("boxes", "saliency_share", rows) if len(rows) else []
    known = np.isin(rows, sources.rows_done("base"))
    entropy = np.full(len(rows), np.nan)
    if known.any():
        entropy[known] = -sources.run.read("base", "entropy", rows[known])
    return table.assign(gain=table.video_id.map(gains).astype(float), share=share, entropy=entropy)


def choose(table: pd.DataFrame, count: int) -> list[int]:
    """Rows of the clips to show: in turn the next best gain, worst loss, highest and lowest entropy and share.

    Gains belong to videos: of each video the clip is taken whose box holds most saliency. Unknown values are left out;
    at the end, and where all are unknown, clips are taken evenly from all.
    """
    turns = []
    for column, falling in ENDS:
        known = table[table[column].notna()]
        if column == "gain":
            known = known.sort_values("share", ascending=False, kind="stable").drop_duplicates("video_id")
        if len(known):
            turns.append(iter(known.sort_values(column, ascending=not falling, kind="stable").index.tolist()))
    turns.append(iter(table.index[evenly(len(table), count)].tolist() if len(table) else []))
    chosen: dict[int, None] = {}
    while turns and len(chosen) < min(count, len(table)):
        turn = turns.pop(0)
        row = next((row for row in turn if row not in chosen), None)
        if row is not None:
            chosen[row] = None
            turns.append(turn)
    return list(chosen)


def make_cards(
    sources: Sources,
    table: pd.DataFrame,
    labels: Mapping[str, list[str]],
    changes: Mapping[str, list[ScoreChange]],
) -> list[Card]:
    """Make the pictures of some clips.

    Args:
        table: the clips to show, rows of `candidates`.
        labels, changes: of every video, by its id.
    """
    run, rows = sources.run, table.index.to_numpy()
    boxes = {name: run.read("boxes", name, rows) for name in ("box_input", "box_source")} if len(rows) else {}
    with_map = np.isin(rows, sources.rows_done("maps"))
    maps = iter(run.read("maps", "codes", rows[with_map]) if with_map.any() else ())  # scale does not matter
    cards = []
    for place, (row, facts) in enumerate(table.iterrows()):
        context, focus = run.context(row), run.focus(row)
        chosen = evenly(len(context), FRAMES)
        height, width = context.shape[1:3]
        top, left, box_height, box_width = boxes["box_input"][place].tolist()
        cards.append(
            Card(
                row=row,
                video_id=facts.video_id,
                clip=clip_name(facts),
                labels=labels[facts.video_id],
                changes=changes[facts.video_id],
                gain=float(facts.gain),
                entropy=float(facts.entropy),
                share=float(facts.share),
                box=(left / width, top / height, box_width / width, box_height / height),
                source_size=(int(facts.source_height), int(facts.source_width)),
                box_source=Box(*boxes["box_source"][place].tolist()),
                frames=len(chosen),
                seconds=len(context) / float(facts.fps),
                context=data_uri(film(context[chosen], SIDE)),
                focus=data_uri(film(focus[chosen], SIDE)),
                saliency=data_uri(film(veil(next(maps))[None], SIDE)) if with_map[place] else "",
            )
        )
    return cards


def clip_name(facts: pd.Series) -> str:
    """What a row of the plan is called: an evaluation clip, or a stored augmentation of a training video."""
    return f"clip {facts.clip_index}" if facts.split == "test" else f"augmentation {facts.aug_index}"


def score_changes(result: Result | None, base: Result | None, classes: list[str], video_id: str) -> list[ScoreChange]:
    """The scores of a video's labels and the largest other changes; none where a result does not have the video."""
    if result is None or base is None or video_id not in result.ids:
        return []
    place = result.ids.index(video_id)
    before, after, labels = base.scores[place], result.scores[place], result.targets[place].astype(bool)
    order = sorted(range(len(classes)), key=lambda c: (not labels[c], -abs(after[c] - before[c])))
    shown = order[:MOST_CLASSES]
    return [ScoreChange(classes[c], float(before[c]), float(after[c]), bool(labels[c])) for c in shown]
