"""What `prepare` takes besides decoding: it reads the labels, looks for files, fixes all rows, and writes all that."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from cache.plan import Part
from cache.plan_files import write_part
from pipeline.config import Config, clip_settings
from pipeline.data.label_files import read_annotations
from pipeline.data.plain_csv import labels_csv
from pipeline.data.strict_csv import csv_bytes
from pipeline.data.video.find import find_video
from pipeline.data.video.frames import VideoMissing
from pipeline.run.folder import Workspace
from pipeline.run.plan_rows import plan_rows
from pipeline.workers.peak_memory import held_bytes, peak_bytes

PLANNED, ABSENT = 2000, 200  # videos of a split that are planned, and looked for in vain, at most


@dataclass(frozen=True)
class PrepareCost:
    """Without any decoding.

    Attributes:
        seconds: of all of it. labels_seconds: of reading the labels, as every stage does.
        memory: bytes at the peak beyond those of a process that has just started.
    """

    seconds: float
    labels_seconds: float
    memory: int


def measure_prepare(
    config: Config, run_dir: Path, videos: list[dict], numbers: dict[str, int], missing: int
) -> PrepareCost:
    """Do it for as many videos as there will be, up to PLANNED, beyond which time and memory go in proportion.

    Args:
        videos: rows of videos.csv that stand for all.
        numbers: of videos by split. missing: annotated videos without a file.
    """
    started = held_bytes()
    taken, annotations = _timed(lambda: _annotations(config, run_dir))
    seconds, skipped = taken, []
    if missing:
        absent = min(missing, ABSENT)
        once, skipped = _timed(lambda: [_miss(config, number) for number in range(absent)])
        seconds, skipped = seconds + missing / absent * once, [*skipped] * (missing // absent)
    before = memory = peak_bytes()
    for split, number in numbers.items():
        own, few = [row for row in videos if row["split"] == split] or videos, min(number, PLANNED)
        rows = [own[place % len(own)] | {"video_id": f"plan{place:05d}"} for place in range(few)]
        once, _ = _timed(lambda rows=rows, split=split: _plan(config, rows, split))
        seconds += number / max(few, 1) * once
        memory += round(number / max(few, 1) * (peak_bytes() - before))
        before = peak_bytes()
    seconds += _timed(lambda: (labels_csv(annotations), csv_bytes(("reason",), skipped)))[0]
    return PrepareCost(seconds, taken, memory + peak_bytes() - before - started)


def _timed(work: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def _annotations(config: Config, run_dir: Path):
    """Those of the run where it has them; those of the config otherwise."""
    return Workspace(run_dir, config).annotations if (run_dir / "labels.csv").exists() else read_annotations(config)


def _miss(config: Config, number: int) -> list[str]:
    try:
        find_video(Path(config.data.videos), f"no-such-video-{number}")
    except VideoMissing as error:
        return [str(error)]
    raise AssertionError("a file of that name is there")


def _plan(config: Config, videos: list[dict], split: str) -> None:
    clips = config.clips
    count = clips.aug_seeds if split == "train" else clips.eval_clips
    rows = plan_rows(config, pd.DataFrame(videos), split, range(count))
    with TemporaryDirectory(prefix="plan-") as folder:
        write_part(
            Path(folder), Part(f"part-000-{split}", split, rows, count, clips.videos_per_unit, clip_settings(config))
        )
