"""Which clips the page shows, and what it shows of each."""

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
# what a clip can be an extreme of: column, and whether the largest values are meant
ENDS = (
    ("gain", True), ("gain", False), ("entropy", True), ("entropy", False), ("share", True), ("share", False),
)  # fmt: skip


@dataclass(frozen=True)
class Moved:
    """A class whose score the clip's video has: before (Base) and after, in [0, 1]; whether the video has the label."""

    name: str
    before: float
    after: float
    label: bool


@dataclass(frozen=True, eq=False)
class Shown:
    """One clip of the gallery. Films are addresses of pictures with `frames` frames side by side.

    `box` is (left, top, width, height) in shares of the input frame; gain, entropy and share are NaN where unknown.
    """

    row: int
    video_id: str
    clip: str
    labels: list[str]
    moved: list[Moved]
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
    """Clips that have all pictures: row, video_id, gain, entropy (-sum y log y), share; NaN where unknown."""
    rows = sources.rows_done("boxes", "context", "crops")
    parts = [part.rows.assign(row=np.arange(part.offset, part.offset + part.num_rows)) for part in sources.run.parts]
    table = pd.concat(parts).set_index("row").loc[rows]
    table = table[table.split == split]
    rows = table.index.to_numpy()
    table["gain"] = [gains.get(video_id, np.nan) for video_id in table.video_id]
    share = sources.run.read("boxes", "saliency_share", rows) if len(rows) else []
    known = np.isin(rows, sources.rows_done("base"))
    entropy = np.full(len(rows), np.nan)
    if known.any():
        entropy[known] = -sources.run.read("base", "entropy", rows[known])
    return table.assign(share=share, entropy=entropy)


def choose(table: pd.DataFrame, count: int) -> list[int]:
    """Rows of the clips to show: in turn the next best gain, worst loss, highest and lowest entropy and share.

    Gains belong to videos, so an end of them takes one clip a video, the one whose box holds most saliency.
    What is unknown everywhere is nobody's extreme; without any, clips are taken evenly from all.
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


def show(sources: Sources, table: pd.DataFrame, rows: list[int], labels: Mapping[str, list[str]], moved) -> list[Shown]:
    """Make the pictures of these rows.

    Args:
        table: see `candidates`.
        labels: names of the classes of every video.
        moved: video id to its list of `Moved`.
    """
    run = sources.run
    boxes = {name: run.read("boxes", name, rows) for name in ("box_input", "box_source")} if rows else {}
    with_map = np.isin(rows, sources.rows_done("maps"))
    maps = iter(run.read("maps", "codes", np.array(rows)[with_map]) if with_map.any() else ())  # scale does not matter
    shown = []
    for place, row in enumerate(rows):
        facts = table.loc[row]
        context, focus = run.context(row), run.focus(row)
        chosen = evenly(len(context), FRAMES)
        height, width = context.shape[1:3]
        top, left, box_height, box_width = boxes["box_input"][place].tolist()
        shown.append(
            Shown(
                row=row,
                video_id=facts.video_id,
                clip=f"clip {facts.clip_index}" if facts.split == "test" else f"augmentation {facts.aug_index}",
                labels=labels[facts.video_id],
                moved=moved(facts.video_id),
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
    return shown


def moves(result: Result | None, base: Result | None, classes: list[str]):
    """A function from video id to its labels' scores and the largest other moves, Base to fusion."""
    if result is None or base is None:
        return lambda video_id: []
    place = {video_id: number for number, video_id in enumerate(result.ids)}

    def of(video_id: str) -> list[Moved]:
        if video_id not in place:
            return []
        before, after = base.scores[place[video_id]], result.scores[place[video_id]]
        here = result.targets[place[video_id]].astype(bool)
        order = sorted(range(len(classes)), key=lambda c: (not here[c], -abs(after[c] - before[c])))
        return [Moved(classes[c], float(before[c]), float(after[c]), bool(here[c])) for c in order[:MOST_CLASSES]]

    return of
