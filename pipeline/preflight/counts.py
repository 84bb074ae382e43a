"""How many videos, rows and units a run has: by its plan, or before `prepare` by annotations and files."""

import heapq
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import Config
from pipeline.data.annotations import Annotations
from pipeline.data.label_files import read_annotations
from pipeline.data.segments import planned_sources
from pipeline.data.video.find import EXTENSIONS
from pipeline.errors import StageError
from pipeline.run.folder import open_folder
from pipeline.run.plan_rows import check_rate, check_root


@dataclass(frozen=True)
class PartSize:
    """The size of one part of a plan, written or to come."""

    split: str
    num_videos: int
    rows_per_video: int
    videos_per_unit: int

    @property
    def num_rows(self) -> int:
        return self.num_videos * self.rows_per_video

    @property
    def units(self) -> list[int]:
        """Rows of each unit."""
        whole, rest = divmod(self.num_videos, self.videos_per_unit)
        return [videos * self.rows_per_video for videos in [self.videos_per_unit] * whole + [rest] * bool(rest)]


def busiest_worker_rows(parts: list[PartSize], workers: int) -> int:
    """Rows of the worker that ends last, where each takes the next unit as soon as it has done one."""
    done = [0] * workers
    for part in parts:
        for rows in part.units:
            heapq.heappush(done, heapq.heappop(done) + rows)
    return max(done)


@dataclass(frozen=True)
class Counts:
    """What is known before anything runs. A miniature that is not generated yet has no ids and no annotations.

    Attributes:
        parts: of the plan, written or to come.
        video_ids: ids of the videos that have a file, by split, the smallest file first.
        missing: ids of the annotated videos without a file.
        planned: whether the numbers are those of a plan that exists.
    """

    parts: list[PartSize]
    video_ids: dict[str, list[str]]
    missing: list[str]
    annotations: Annotations | None
    planned: bool

    def videos(self, *splits: str) -> int:
        """Videos of these splits; several parts may hold augmentations of the same videos."""
        return sum(self._videos_of(split) for split in splits)

    def _videos_of(self, split: str) -> int:
        if split in self.video_ids:
            return len(self.video_ids[split])
        return sum(part.num_videos for part in self.parts if part.split == split)

    def rows(self, *splits: str) -> int:
        """Planned rows of these splits."""
        return sum(part.num_rows for part in self.parts if part.split in splits)

    @property
    def units(self) -> int:
        """Units of all parts."""
        return sum(len(part.units) for part in self.parts)


def count(config: Config, run_dir: Path) -> Counts:
    """Count by the plan, or by annotations and the names in the video folder. Opens no video.

    Raises:
        AnnotationError, StageError: as `prepare` would.
        StaleCacheError: the plan there has other clips than the config.
    """
    if any((run_dir / "plan").glob("part-*.json")):
        return _count_by_plan(config, run_dir)
    if config.data.format == "miniature" and not Path(config.data.videos).is_dir():  # `prepare` will generate it
        return Counts(_new_parts(config, config.data.train_videos, config.data.eval_videos), {}, [], None, False)
    annotations = read_annotations(config.data)
    table = list(annotations.videos[["video_id", "split"]].itertuples(index=False, name=None))
    check_rate(config, annotations)
    root = check_root(config, annotations.source(table[0][0]).video_id)
    sizes = _sizes(root, annotations)
    found = sorted(((video_id, split) for video_id, split in table if video_id in sizes), key=lambda one: sizes[one[0]])
    if not found:
        raise StageError(
            f"none of the {len(table)} annotated videos has a file in data.videos = {config.data.videos}; looked for "
            f"{table[0][0]}.<{'|'.join(EXTENSIONS)}> and folders of frames such as {table[0][0]}/"
        )
    ids = {split: [video_id for video_id, own in found if own == split] for split in ("train", "test")}
    missing = [video_id for video_id, _ in table if video_id not in sizes]
    return Counts(_new_parts(config, *map(len, ids.values())), ids, missing, annotations, False)


def _new_parts(config: Config, train_videos: int, test_videos: int) -> list[PartSize]:
    clips = config.clips
    numbers = (("train", train_videos, clips.aug_seeds), ("test", test_videos, clips.eval_clips))
    return [PartSize(split, number, rows, clips.videos_per_unit) for split, number, rows in numbers if number]


def _count_by_plan(config: Config, run_dir: Path) -> Counts:
    run = open_folder(run_dir, config)
    parts, sizes = [], {"train": {}, "test": {}}
    for part in run.parts:
        parts.append(PartSize(part.split, part.num_videos, part.rows_per_video, part.videos_per_unit))
        sizes[part.split] |= dict(zip(part.video_ids, part.rows.video_bytes, strict=True))
    planned = sizes["train"] | sizes["test"]
    missing = [video_id for video_id in run.annotations.videos.video_id if video_id not in planned]
    ids = {split: sorted(own, key=own.get) for split, own in sizes.items()}
    paths = {one: path for part in run.parts for one, path in zip(part.video_ids, part.rows.video_path, strict=True)}
    return Counts(parts, ids, missing, replace(run.annotations, sources=planned_sources(paths)), planned=True)


def spread(ids: list[str], number: int) -> list[str]:
    """So many of the ids, or all of them, evenly spaced in their order."""
    number = min(number, len(ids))
    return [ids[(2 * place + 1) * len(ids) // (2 * number)] for place in range(number)]


def _sizes(root: Path, annotations: Annotations) -> dict[str, int]:
    """Return the bytes of the file of every sample that has one, by id (0 for a folder of frames)."""
    names, sizes = _file_sizes(root), {}
    for video_id in annotations.videos.video_id:
        source = annotations.source(video_id)
        if source.path:
            with suppress(OSError):
                path = root / source.path
                sizes[video_id] = 0 if path.is_dir() else path.stat().st_size
        elif source.video_id in names:
            sizes[video_id] = names[source.video_id]
    return sizes


def _file_sizes(root: Path) -> dict[str, int]:
    """Bytes of every video file by id (0 for a folder of frames), by one look at the folder."""
    sizes = {}
    with os.scandir(root) as entries:
        for entry in entries:
            stem, _, extension = entry.name.rpartition(".")
            if entry.is_dir():
                sizes[entry.name] = 0
            elif extension.lower() in EXTENSIONS:
                with suppress(OSError):  # a link to nothing
                    sizes[stem] = entry.stat().st_size
    return sizes
