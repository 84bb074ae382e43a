"""How many rows and units a run has: by its plan where there is one, by annotations and files before that."""

import heapq
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import Config
from pipeline.data.annotations import Annotations
from pipeline.data.label_files import read_annotations
from pipeline.data.miniature import generate
from pipeline.data.plain_csv import labels_csv
from pipeline.data.strict_csv import csv_bytes
from pipeline.data.video.find import EXTENSIONS
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.plan_rows import check_root

GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class PartSize:
    """One part of the plan, there or to come."""

    split: str
    num_videos: int
    rows_per_video: int
    videos_per_unit: int

    @property
    def num_rows(self) -> int:
        return self.num_videos * self.rows_per_video

    @property
    def units(self) -> list[int]:
        """Videos of each unit."""
        whole, rest = divmod(self.num_videos, self.videos_per_unit)
        return [self.videos_per_unit] * whole + [rest] * bool(rest)


def makespan(parts: list[PartSize], workers: int, cost: Callable[[PartSize, int], float]) -> float:
    """When the last worker has done its last unit, where each takes the next one as it becomes free.

    Args:
        cost: of a unit of this part with so many videos.
    """
    free = [0.0] * workers
    for part in parts:
        known = {videos: cost(part, videos) for videos in set(part.units)}
        for videos in part.units:
            heapq.heappush(free, heapq.heappop(free) + known[videos])
    return max(free)


@dataclass(frozen=True)
class Counts:
    """What is known before anything runs.

    Attributes:
        parts: of the plan. num_missing: annotated videos without a file.
        num_classes, class_bytes: of the labels, and of a table of them.
        text_bytes: of labels.csv, classes.txt, and skipped.csv for missing videos.
        candidates: by split, (video_id, split) of videos to sample, in an order whose every beginning is spread evenly
            over small and large files.
        planned: whether the numbers are those of a plan that exists.
    """

    parts: list[PartSize]
    num_missing: int
    num_classes: int
    class_bytes: int
    text_bytes: int
    candidates: dict[str, list[tuple[str, str]]]
    planned: bool

    def videos(self, split: str) -> int:
        """Videos of a split, each once: later parts of a split may hold further augmentations of the same videos."""
        return max((part.num_videos for part in self.parts if part.split == split), default=0)

    def rows(self, *splits: str) -> int:
        return sum(part.num_rows for part in self.parts if part.split in splits)


def count(config: Config, run_dir: Path) -> Counts:
    """Look at the plan, or at annotations and the video folder. Opens no video.

    Raises:
        AnnotationError, StageError: as `prepare` would.
        StaleCacheError: the plan there has other clips than the config.
    """
    if any((run_dir / "plan").glob("part-*.json")):
        return _of_plan(config, run_dir)
    clips, annotations = config.clips, read_annotations(config)
    sizes = _file_sizes(check_root(config, annotations.videos.video_id.iat[0]))
    table = list(annotations.videos[["video_id", "split"]].itertuples(index=False, name=None))
    found = [(video_id, split) for video_id, split in table if video_id in sizes]
    if not found:
        raise StageError(
            f"none of the {len(table)} annotated videos has a file in data.videos = {config.data.videos}; looked for "
            f"{table[0][0]}.<{'|'.join(EXTENSIONS)}> and folders of frames such as {table[0][0]}/"
        )
    root = Path(config.data.videos).resolve()
    missing = [
        [video_id, split, "VideoMissing", f"{root}: no {video_id}.<{'|'.join(EXTENSIONS)}> and no folder {video_id}/"]
        for video_id, split in table
        if video_id not in sizes
    ]
    text = (
        len(csv_bytes((), missing)) + len(labels_csv(annotations)) + sum(len(name) + 1 for name in annotations.classes)
    )
    parts, candidates = [], {}
    for split, rows in (("train", clips.aug_seeds), ("test", clips.eval_clips)):
        ids = [video_id for video_id, own in found if own == split]
        if ids:
            parts.append(PartSize(split, len(ids), rows, clips.videos_per_unit))
            candidates[split] = [(video_id, split) for video_id in _spread(sorted(ids, key=lambda one: sizes[one]))]
    class_bytes = _class_bytes(annotations, [video_id for video_id, split in found if split == "test"])
    return Counts(parts, len(missing), len(annotations.classes), class_bytes, text, candidates, planned=False)


def _of_plan(config: Config, run_dir: Path) -> Counts:
    workspace = Workspace(run_dir, config)
    parts, candidates = [], {}
    for part in workspace.parts:
        parts.append(PartSize(part.split, part.num_videos, part.rows_per_video, part.videos_per_unit))
        sizes = dict(zip(part.video_ids, part.rows.video_bytes, strict=True))
        ids = sorted(sizes, key=sizes.get)
        candidates.setdefault(part.split, []).extend((video_id, part.split) for video_id in _spread(ids))
    texts = ("labels.csv", "classes.txt", "skipped.csv")
    size = sum((run_dir / name).stat().st_size for name in texts if (run_dir / name).exists())
    missing = max(len((run_dir / "skipped.csv").read_text().splitlines()) - 1, 0)
    annotations, tests = workspace.annotations, [part for part in workspace.parts if part.split == "test"]
    class_bytes = _class_bytes(annotations, [video_id for part in tests for video_id in part.video_ids])
    return Counts(parts, missing, len(annotations.classes), class_bytes, size, candidates, planned=True)


def _class_bytes(annotations: Annotations, ids: list[str]) -> int:
    """About the bytes of a table of APs: a line holds the class, a count and, where these videos show it, a number."""
    shown = annotations.video_targets(ids).any(0)
    return sum(len(name) + (24 if one else 4) for name, one in zip(annotations.classes, shown, strict=True))


def with_miniature(config: Config, folder: Path, videos: int) -> tuple[Config, Counts]:
    """A few videos of the miniature in a folder of their own, and counts of the whole: `prepare` makes the rest."""
    few = {"train_videos": min(videos, config.data.train_videos), "eval_videos": min(videos, config.data.eval_videos)}
    places = {"videos": str(folder), "annotations": tuple(str(folder / f"{name}.csv") for name in ("train", "test"))}
    small = replace(config, data=replace(config.data, **few, **places, classes=str(folder / "classes.txt")))
    generate.generate(small)
    found = count(small, folder / "none")
    numbers = {"train": config.data.train_videos, "test": config.data.eval_videos}
    parts = [replace(part, num_videos=numbers[part.split]) for part in found.parts]
    share = sum(numbers.values()) / sum(few.values())
    return small, replace(found, parts=parts, text_bytes=round(found.text_bytes * share))


def _file_sizes(root: Path) -> dict[str, int]:
    """Bytes of every video file by id (0 for a folder of frames), by one look at the folder."""
    sizes = {}
    with os.scandir(root) as entries:
        for entry in entries:
            stem, _, extension = entry.name.rpartition(".")
            if entry.is_dir():
                sizes[entry.name] = 0
            elif extension.lower() in EXTENSIONS:
                sizes[stem] = entry.stat().st_size
    return sizes


def _spread(ids: list[str]) -> list[str]:
    """Up to 64 ids so that every beginning of the list lies evenly in the given order: steps of the golden ratio."""
    places = (int((0.5 + number * GOLDEN) % 1 * len(ids)) for number in range(512))
    return [ids[place] for place in list(dict.fromkeys(places))[:64]]
