"""The page of a predictions folder: for each video its film, its boxes, and a timeline with a lane a class."""

import difflib
import os
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from cache.commit import write_file
from pipeline.data.video.find import file_name
from pipeline.errors import StageError
from pipeline.report import charts
from pipeline.report.pictures import evenly
from pipeline.run.outcome import Outcome
from pipeline.run.overwrite import check_overwrite, holds
from pipeline.run.predictions import BOX, film_path, read_facts, read_timeline, read_video
from pipeline.run.timeline import moments

MOST_VIDEOS, MOST_BOXES = 50, 200  # on a page; of a video
MOST_LANES = 12  # of a video: classes with segments come first, then the highest


def run(folder: Path, video_id: str | None = None, out: Path | None = None) -> Outcome:
    """Write the page to report/index.html of a predictions folder, that of one video to report/<video_id>.html.

    The page needs no other file but the films, which it plays from films/.

    Args:
        video_id: draw this video only.
        out: another file.
    Raises:
        StageError: the folder has no such video; `out` is no page of this kind.
    """
    if out:
        check_overwrite(out, "report" if video_id is None else "show", holds(b": predictions</title>"))
    facts = read_facts(folder)
    table = read_timeline(folder)
    known = list(dict.fromkeys(table.video_id))
    if video_id is not None and video_id not in known:
        near = ", ".join(difflib.get_close_matches(video_id, known, 3) or known[:3])
        raise StageError(f"{folder} has no predictions of {video_id!r}; it has {len(known)} videos, such as {near}")
    path = out or folder / "report" / f"{file_name(video_id or 'index')}.html"
    shown = [video_id] if video_id else known[:MOST_VIDEOS]
    videos = [_video(folder, one, table[(table.video_id == one) & (table.label != "")], facts, path) for one in shown]
    values = {"title": folder.resolve().name, "facts": facts, "videos": videos}
    values["more"] = 0 if video_id else max(0, len(known) - MOST_VIDEOS)
    css = files("pipeline.report").joinpath("page.css").read_text(encoding="utf-8")
    environment = Environment(loader=PackageLoader("pipeline.report", ""), autoescape=True, undefined=StrictUndefined)
    content = environment.get_template("prediction.html").render(values, css=css).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)
    return Outcome(path, f"{len(videos)} videos, {len(content) / 1e6:.1f} MB")


def _video(folder: Path, video_id: str, timeline: pd.DataFrame, facts: dict, page: Path) -> dict:
    """Return what the page shows of a video."""
    found = read_video(folder, video_id)
    windows, seconds = found.windows, float(found.windows.end.max())
    edges, scores = moments(*(windows[name].to_numpy() for name in ("start", "end")), windows[found.classes].to_numpy())
    order = found.scores.sort_values(ascending=False, kind="stable").index
    lanes = []
    for label in sorted(order, key=lambda name: name not in set(timeline.label))[:MOST_LANES]:
        own = timeline[timeline.label == label][["start", "end"]].astype(float).to_numpy().tolist()
        one = scores[:, found.classes.index(label)]
        chart = charts.lane(edges, one, own, facts["thresholds"][label], seconds)
        lanes.append({"label": label, "chart": chart, "score": found.scores[label]})
    film = film_path(folder, video_id)
    address = quote(Path(os.path.relpath(film, page.parent)).as_posix()) if film.is_file() else ""
    by_window = found.edges
    chosen = by_window[evenly(len(windows), MOST_BOXES // by_window.shape[1])]
    boxes = charts.boxes_over_time(chosen.reshape(-1, len(BOX)), found.size)
    facts = {"video_id": video_id, "path": found.path, "seconds": seconds, "film": address}
    return facts | {"boxes": boxes, "lanes": lanes}
