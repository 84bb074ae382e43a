"""A prepared run folder: its plan, its labels, and which run they belong to."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from itertools import zip_longest
from pathlib import Path

import numpy as np

from cache.commit import close_directories, in_use
from cache.errors import StaleCacheError, relative_to
from cache.fingerprint import differences, unchanged_sha256
from cache.plan import Part
from cache.plan_files import StoredPart, read_plan
from cache.table_files import read_csv, read_table
from pipeline.config import Config, Task
from pipeline.config_keys import clip_settings
from pipeline.data.annotations import Annotations
from pipeline.data.plain_csv import read_plain
from pipeline.data.strict_csv import read_classes
from pipeline.errors import StageError

FRAME_TIMES = "frame_times.csv"  # only where some video has frames at other times than their numbers / fps


@dataclass(frozen=True)
class RunFolder:
    """A run folder as the stages see it. Nothing is read before it is asked for."""

    path: Path  # where results and trained networks are written
    clips: dict  # settings that the clips of the plan must have, see `clip_settings`
    config_name: str  # for error messages
    task: Task = "multi_label"
    caches: Path | None = None  # the run whose plan, labels, Base and stores are read, where that is another one

    @property
    def source(self) -> Path:
        """The run whose plan, labels, Base and stores are read."""
        return self.caches or self.path

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of the plan. Raises StaleCacheError, which names the field, if the config asks for other clips."""
        parts = read_plan(self.source)
        for part in parts:
            wrong = differences(part.settings, self.clips)
            if wrong := sorted(wrong, key=lambda text: "(absent)" in text):  # what both have comes first
                raise StaleCacheError(
                    f"{self.source}: the plan was prepared with other clips than {self.config_name} asks for: "
                    f"{wrong[0]}; use another --run (make: RUN=), or this one's config, {self.source / 'config.toml'}"
                )
        return parts

    def parts_of(self, *splits: str) -> list[Part]:
        """Return the parts of these splits, "train" or "test"."""
        return [part for part in self.parts if part.split in splits]

    def part(self, name: str) -> Part:
        """Return the part of this name; of a large plan forget the rows of others, for workers go part by part."""
        for other in self.parts:
            if isinstance(other, StoredPart) and other.name != name:
                other.release()
        return next(part for part in self.parts if part.name == name)

    @cached_property
    def annotations(self) -> Annotations:
        """The labels as `prepare` read them, see `read_labels`, for the task of the config; see `for_task`.

        Raises as these two, and as `parts` where the folder was not prepared.
        """
        _ = self.parts
        return read_labels(self.source).for_task(self.task)

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the networks' outputs; raises as `annotations`."""
        _ = self.parts
        return read_class_names(self.source)

    @cached_property
    def labels_sha256(self) -> str:
        """Identity of all labels; part of a key only where labels change the bytes. Raises as `read_labels`."""
        check_labels(self.source)
        return files_sha256(*(self.source / name for name in label_tables(self.source)))


def open_folder(path: Path, config: Config, caches: Path | None = None) -> RunFolder:
    """Open a run folder for a config; see `RunFolder`."""
    return RunFolder(path, clip_settings(config), config.name, config.data.task, caches)


def label_tables(run_dir: Path) -> list[str]:
    """Return the names of the tables that say what is in which frame."""
    return ["labels.csv", "classes.txt", *([FRAME_TIMES] if (run_dir / FRAME_TIMES).exists() else [])]


def check_labels(run_dir: Path) -> None:
    """Raise DamagedError, which says what to run, where the labels of a run are not what `prepare` wrote."""
    for name in label_tables(run_dir):
        read_table(run_dir / name)


def read_labels(run_dir: Path) -> Annotations:
    """Read labels and frame times as `prepare` wrote them. Raises as `check_labels`, and AnnotationError."""
    check_labels(run_dir)
    labels = read_plain(run_dir / "labels.csv", run_dir / "classes.txt")
    return replace(labels, frame_times=read_frame_times(run_dir))


def read_frame_times(run_dir: Path) -> dict[str, np.ndarray]:
    """Read the seconds of frames by video id, see `Annotations.frame_times`. Raises as `check_labels`."""
    if not (run_dir / FRAME_TIMES).exists():
        return {}
    table = read_csv(run_dir / FRAME_TIMES, ("video_id", "seconds"))
    return {one: np.array(text.split(), float) for one, text in zip(table.video_id, table.seconds, strict=True)}


def read_class_names(run_dir: Path) -> list[str]:
    """Read the names of a run's classes, in the order of the networks' outputs. Raises as `read_labels`."""
    check_labels(run_dir)
    return read_classes(run_dir / "classes.txt")


def holds_run(stage: Callable) -> Callable:
    """Hold the lock of the run folder, which is a stage's second argument, while the stage runs: `gc` keeps off."""

    @wraps(stage)
    def held(config: Config, run_dir: Path, *args, **options):
        with in_use(run_dir):
            try:
                return stage(config, run_dir, *args, **options)
            finally:
                close_directories()

    return held


def check_classes(known: list[str], now: list[str], whose: str) -> None:
    """Refuse classes other than those of a trained network, for an output means the class of its place.

    Args:
        known, now: names by class index.
        whose: of `known`, begins the error message.
    Raises:
        StaleCacheError: names the first class that differs.
    """
    if known == now:
        return
    pairs = enumerate(zip_longest(known, now, fillvalue="none"))
    number, (old, new) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    raise StaleCacheError(
        f"{whose} {len(known)} classes, number {number} is {old!r}; now there are {len(now)}, number {number} is "
        f"{new!r}. An output of a network means the class of its place: restore the class list, or use another --run "
        "(make: RUN=)"
    )


def files_sha256(*paths: Path) -> str:
    """Return one SHA-256 of the contents of some files; raise StageError where one is not there."""
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise StageError(f"{path}: no such file{relative_to(path)}")
        digest.update(bytes.fromhex(unchanged_sha256(path)))
    return digest.hexdigest()


def own_boxes_sha256(path: str) -> str:
    """Return the identity of the table of the policy "own"; StageError where none is named, or it is not there."""
    if not path:
        raise StageError("boxes own: saliency.own_boxes names no table; say --boxes FILE.csv")
    return files_sha256(Path(path))
