"""The command `show`: one video as a strip of pictures and as a film, with saliency, box and focused volume."""

import difflib
import io
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from cache.commit import write_file
from cache.geometry import Box, boxes_by_frame
from pipeline.data.annotations import Annotations
from pipeline.data.video.find import file_name
from pipeline.data.video.write import write_video
from pipeline.errors import StageError
from pipeline.report.chosen_stores import Sources, open_sources, require_plan
from pipeline.report.gallery import clip_name, labels_of
from pipeline.report.pictures import evenly, under_veil, veil
from pipeline.run.folder import read_labels
from pipeline.run.outcome import Outcome
from pipeline.run.overwrite import check_overwrite, holds

MOST_CLIPS, MOST_FRAMES = 3, 8  # clips without --clip; frames side by side in a strip
SIDE = 224  # pixels that the shorter side of a panel has at least
GAP, LINE, MARGIN = 8, 26, 88  # between panels, height of a line of text, width of the names of the rows
MADE_BY = "focused-attention show"  # in the strip's metadata
GROUND, INK, SOFT = (251, 250, 247), (29, 33, 37), (92, 102, 112)


@dataclass(frozen=True)
class Panels:
    """A clip as it is drawn: a heading, and by name volumes, uint8 (T, H, W, 3), of one size with even H and W."""

    heading: str
    volumes: dict[str, np.ndarray]


def run(
    run_dir: Path, video_id: str, clips: tuple[int, ...] = (), policy: str = "entropy", out: Path | None = None
) -> Outcome:
    """Write <video_id>.png and <video_id>.mp4 into report/show/ of the run, or into `out`. Reads only the caches.

    Args:
        clips: of an evaluation video, or stored augmentations of a training video; () for three, evenly spaced.
        policy: of the boxes; focused volumes are shown with source pixels where these are stored.
    Raises:
        StageError: the plan lacks the video or the clip, nothing of them is stored, or `out` has another file of that
            name, such as the video itself.
    """
    require_plan(run_dir)
    sources = open_sources(run_dir, policy)
    rows = _rows(sources, video_id, clips, policy)
    annotations = read_labels(run_dir)
    folder = out or run_dir / "report" / "show"
    name = file_name(video_id)
    picture, video = folder / f"{name}.png", folder / f"{name}.mp4"
    for path in (picture, video) if out else ():
        check_overwrite(path, "show", lambda _: holds(MADE_BY.encode())(picture))
    shown = [panels(sources, row, annotations) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    buffer, made_by = io.BytesIO(), PngInfo()
    made_by.add_text("Software", MADE_BY)
    Image.fromarray(strip(shown)).save(buffer, "png", pnginfo=made_by)
    write_file(picture, buffer.getvalue())
    temporary = folder / f"{name}.mp4.tmp"
    fps = max(1, round(_facts(sources, rows[0]).fps))
    write_video(temporary, (frame for one in shown for frame in film(one)), fps)
    os.replace(temporary, video)
    return Outcome(picture, f"{len(rows)} of its clips; and {video.name} beside it")


def panels(sources: Sources, row: int, annotations: Annotations) -> Panels:
    """Draw the volumes of a row: the input with saliency and boxes; of each box, it enlarged and its focused volume."""
    run, facts = sources.run, _facts(sources, row)
    found = run.boxes(row)
    boxes, boxes_source = (
        [Box(*map(int, edges)) for edges in found.filter(regex=f"^{name}_").to_numpy()]
        for name in ("box_input", "box_source")
    )
    context = run.context(row)
    looks = boxes_by_frame(boxes, len(context), sources.segments)
    names = [f" {number}" for number in range(1, len(looks) + 1)] if len(looks) > 1 else [""]
    scale = math.ceil(SIDE / min(context.shape[1:3]))
    size = tuple(2 * math.ceil(scale * side / 2) for side in context.shape[1:3])
    with_saliency = context
    if row in sources.rows_done("maps"):
        codes = run.read("maps", "codes", [row])[0]
        codes = codes if codes.ndim == 3 else codes[None]  # a map for each segment of time
        parts = zip(np.split(context, len(codes)), codes, strict=True)
        with_saliency = np.concatenate([under_veil(frames, veil(one)) for frames, one in parts])
    frames = resized(with_saliency, size)
    for look in reversed(looks):  # the first one on top
        frames = np.stack([outlined(frame, box, scale) for frame, box in zip(frames, look, strict=True)])
    volumes = {"input": frames}
    focus = run.focus(row) if row in sources.rows_done("crops") else None
    for place, (name, look) in enumerate(zip(names, looks, strict=True)):
        cut = [frame[box.top : box.bottom, box.left : box.right] for frame, box in zip(context, look, strict=True)]
        volumes[f"enlarged{name}"] = resized(cut, size)
        if focus is not None:
            volumes[f"focused{name}"] = resized(focus if focus.ndim == 4 else focus[place], size)
    start = annotations.seconds(facts.video_id, [facts.frame_start], facts.fps).item()
    words = [f"{facts.video_id}, {clip_name(facts)}, from {start:.1f} s"]
    noun = "boxes" if len(boxes) > 1 else "box"
    if not found.saliency_share.isna().any():
        words.append(f"{', '.join(f'{share:.0%}' for share in found.saliency_share)} of saliency in the {noun}")
    sizes = ", ".join(f"{box.height} x {box.width}" for box in boxes_source)
    labels = labels_of(annotations, facts.video_id)
    words.append(f"{noun} {sizes} of {facts.source_height} x {facts.source_width} source pixels")
    return Panels("; ".join([*words, ", ".join(labels) or "no label"]), volumes)


def strip(shown: list[Panels]) -> np.ndarray:
    """Clips one below the other, each with a row of frames for every volume: uint8 (H, W, 3)."""
    bands = []
    for one in shown:
        frames = next(iter(one.volumes.values()))
        chosen, (height, width) = evenly(len(frames), MOST_FRAMES), frames.shape[1:3]
        total = (MARGIN + len(chosen) * (width + GAP), LINE + len(one.volumes) * (height + GAP) + GAP)
        band = Image.new("RGB", total, GROUND)
        write(band, (GAP, 4), one.heading, INK)
        for line, (name, volume) in enumerate(one.volumes.items()):
            top = LINE + line * (height + GAP)
            write(band, (GAP, top), name, SOFT)
            for place, number in enumerate(chosen):
                band.paste(Image.fromarray(volume[number]), (MARGIN + place * (width + GAP), top))
        bands.append(np.asarray(band))
    return np.concatenate(bands)


def film(one: Panels) -> Iterator[np.ndarray]:
    """Yield the frames of a clip's film, uint8 (H, W, 3): the volumes side by side, with their names."""
    height, width = next(iter(one.volumes.values())).shape[1:3]
    total = (len(one.volumes) * (width + GAP) - GAP, height + 2 * LINE)
    empty = Image.new("RGB", total, GROUND)
    write(empty, (4, 4), one.heading, INK)
    for place, name in enumerate(one.volumes):
        write(empty, (place * (width + GAP) + 4, height + LINE + 4), name, SOFT)
    for frames in zip(*one.volumes.values(), strict=True):
        picture = empty.copy()
        for place, pixels in enumerate(frames):
            picture.paste(Image.fromarray(pixels), (place * (width + GAP), LINE))
        yield np.asarray(picture)


def resized(frames: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Every frame, uint8 (h, w, 3), at this (height, width), bilinear: uint8 (T, H, W, 3)."""
    return np.stack([np.asarray(Image.fromarray(one).resize(size[::-1], Image.Resampling.BILINEAR)) for one in frames])


def outlined(frame: np.ndarray, box_input: Box, scale: int) -> np.ndarray:
    """Outline a box of the input in a frame that is enlarged `scale` times: a white line between black ones."""
    picture = Image.fromarray(frame)
    edges = (box_input.left * scale, box_input.top * scale, box_input.right * scale - 1, box_input.bottom * scale - 1)
    draw = ImageDraw.Draw(picture)
    for inset, colour in ((0, (0, 0, 0)), (1, (255, 255, 255)), (2, (255, 255, 255)), (3, (0, 0, 0))):
        left, top, right, bottom = (edge + sign * inset for edge, sign in zip(edges, (1, 1, -1, -1), strict=True))
        if left <= right and top <= bottom:
            draw.rectangle((left, top, right, bottom), outline=colour)
    return np.asarray(picture)


def write(picture: Image.Image, place: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
    """Write one line of text, cut off where the picture ends."""
    font = ImageFont.load_default(size=14)
    room = picture.width - place[0] - 4
    if font.getlength(text) > room:
        while text and font.getlength(text + "...") > room:
            text = text[:-1]
        text += "..."
    ImageDraw.Draw(picture).text(place, text, fill=colour, font=font)


def _facts(sources: Sources, row: int) -> pd.Series:
    """Return what the plan says of a global row."""
    number, local = sources.run.locate(row)
    return sources.run.parts[number].rows.iloc[local]


def _rows(sources: Sources, video_id: str, clips: tuple[int, ...], policy: str) -> list[int]:
    """Global rows to show, in the order of the clips; see `run` for arguments and errors."""
    path, planned = sources.run.path, {}
    for part in sources.run.parts:
        own = part.rows[part.rows.video_id == video_id]
        numbers = own.clip_index if part.split == "test" else own.aug_index
        planned |= {int(number): part.offset + int(local) for local, number in numbers.items()}
    if not planned:
        known = sorted({video_id for part in sources.run.parts for video_id in part.video_ids})
        near = ", ".join(difflib.get_close_matches(video_id, known, 3) or known[:3])
        raise StageError(f"{path}: the plan has no video {video_id!r}; it has {len(known)}, such as {near}")
    if unknown := sorted(set(clips) - planned.keys()):
        raise StageError(f"{path}: {video_id} has no clip {unknown[0]}; it has 0 to {max(planned)}")
    if "boxes" in sources.stores and sources.stores["boxes"].name != policy:
        raise StageError(f"{path} has no boxes {policy!r}; it has {sources.stores['boxes'].name}, and perhaps others")
    done = set(sources.rows_done("boxes", "context").tolist())
    rows = [row for number, row in sorted(planned.items()) if row in done and (not clips or number in clips)]
    if not rows:
        raise StageError(f"{path}: no volume of {video_id} is stored; `saliency`, then `crops` make them")
    return rows if clips else [rows[place] for place in evenly(len(rows), MOST_CLIPS)]
