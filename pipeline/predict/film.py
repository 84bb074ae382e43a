"""A film of a predicted video: saliency and box in the source, the focused view, and the scores of the moment."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cache.geometry import Box
from pipeline.config import Clips
from pipeline.data.clips import PlannedVideo, decode_frames
from pipeline.data.sampling import eval_theta
from pipeline.data.video.write import write_video
from pipeline.report.pictures import pooled, under_veil, veil
from pipeline.report.show import GAP, GROUND, INK, LINE, SOFT, outlined, write
from pipeline.run.predictions import VideoTable
from pipeline.run.timeline import moments

HEIGHT = 288  # pixels of the pictures
SHOWN = 3  # classes with the highest scores of the moment


def small_map(codes: np.ndarray) -> np.ndarray:
    """Keep of a saliency map, uint16 (H, W), what a film shows: float16 (h, w) in [0, 1], at most 56 x 56.

    Of several segments of time one each, (segments, h, w).
    """
    if codes.ndim == 3:
        return np.stack([small_map(one) for one in codes])
    return (pooled(codes) / np.iinfo(np.uint16).max).astype(np.float16)


def save_film(
    path: Path, found: VideoTable, video: PlannedVideo, clips: Clips, maps: list[np.ndarray], thresholds: pd.Series
) -> None:
    """Decode a video once more, at the rate of the windows, and write the film, whole or not at all.

    Args:
        maps: of each window as `small_map` keeps them; [] where the boxes need none.
        thresholds: by class; scores that reach them are marked.
    Raises:
        VideoError: the video cannot be read any more, or is another one now.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_video(temporary, _frames(found, video, clips, maps, thresholds), max(1, round(video.fps)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _frames(
    found: VideoTable, video: PlannedVideo, clips: Clips, maps: list[np.ndarray], thresholds: pd.Series
) -> Iterator[np.ndarray]:
    """Yield the frames of the film, uint8 (H, W, 3)."""
    theta = eval_theta(video.source_size, clips)
    seen = theta.to_source(Box(0, 0, *theta.input_size))  # what the network sees of the source
    centres = found.windows[["start", "end"]].mean(axis=1).to_numpy()
    starts, ends = (found.windows[name].to_numpy(float) for name in ("start", "end"))
    edges, scores = moments(starts, ends, found.windows[found.classes].to_numpy())
    scale = HEIGHT / video.source_size[0]
    width = 2 * round(scale * video.source_size[1] / 2)
    for index, frame in decode_frames(video, range(video.num_frames)):
        now = (video.seconds(index) + video.seconds(index + 1)) / 2
        nearest = int(np.abs(centres - now).argmin())
        own = [Box(*sides) for sides in found.edges[nearest].tolist()]
        segment = min(max(0, int((now - starts[nearest]) / found.segment)), len(own) - 1) if found.segment else 0
        own = own[segment : segment + 1] if found.segment else own
        moment = min(np.searchsorted(edges, now, "right") - 1, len(scores) - 1)
        focused = [frame[box.top : box.bottom, box.left : box.right] for box in own]
        if maps:
            frame = frame.copy()
            part = slice(seen.top, seen.bottom), slice(seen.left, seen.right)
            saliency = maps[nearest][segment] if maps[nearest].ndim == 3 else maps[nearest]
            frame[part] = under_veil(frame[part][None], veil(saliency.astype(np.float32)))[0]
        small = np.asarray(Image.fromarray(frame).resize((width, HEIGHT), Image.Resampling.BILINEAR))
        for box in reversed(own):  # the first one on top
            sides = [round(scale * side) for side in (box.top, box.left, box.height, box.width)]
            small = outlined(small, Box(*sides[:2], *(max(1, side) for side in sides[2:])), 1)
        squares = [Image.fromarray(one).resize((HEIGHT, HEIGHT), Image.Resampling.BILINEAR) for one in focused]
        yield _picture([small, *map(np.asarray, squares)], lines_below(found.classes, scores[moment], thresholds, now))


def lines_below(
    classes: list[str], scores: np.ndarray, thresholds: pd.Series, seconds: float
) -> list[tuple[str, bool]]:
    """Return the lines below the pictures, and whether each is marked."""
    highest = np.argsort(-scores, kind="stable")[:SHOWN]
    if np.isnan(scores).all():  # windows leave gaps where the stride is longer than they are
        return [(f"{seconds:.1f} s: no window here", False), *[("", False)] * len(highest)]
    shown = [(f"{scores[one]:.2f}  {classes[one]}", bool(scores[one] >= thresholds[classes[one]])) for one in highest]
    return [(f"{seconds:.1f} s", False), *shown]


def _picture(views: list[np.ndarray], lines: list[tuple[str, bool]]) -> np.ndarray:
    """Put views, uint8 (HEIGHT, w, 3), side by side above the lines."""
    width = sum(view.shape[1] for view in views) + GAP * (len(views) - 1)
    picture = Image.new("RGB", (2 * ((width + 1) // 2), HEIGHT + len(lines) * LINE), GROUND)
    left = 0
    for view in views:
        picture.paste(Image.fromarray(view), (left, 0))
        left += view.shape[1] + GAP
    for number, (text, marked) in enumerate(lines):
        write(picture, (GAP, HEIGHT + number * LINE + 4), text, INK if marked else SOFT)
    return np.asarray(picture)
