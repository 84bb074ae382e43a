"""A run folder as the stages see it: its plan, its labels, and where each thing they write belongs."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cache.errors import StaleCacheError
from cache.fingerprint import differences, fingerprint, unchanged_sha256
from cache.plan import Part
from cache.plan_files import read_plan
from pipeline.config import NO_NUMBERS, Config, clip_settings
from pipeline.data.annotations import Annotations
from pipeline.data.plain_csv import read_plain
from pipeline.errors import StageError


@dataclass(frozen=True)
class Workspace:
    """A prepared run folder together with the config that is in force.

    Args:
        path: of the run. config: its settings.
        caches: the run whose plan, labels, Base and products are read, where that is another one.
    """

    path: Path
    config: Config
    caches: Path | None = None

    @property
    def source(self) -> Path:
        """The run that plan, labels, Base and products belong to."""
        return self.caches or self.path

    @cached_property
    def parts(self) -> list[Part]:
        """The plan's parts, whose clips must be those of the config.

        Raises:
            StaleCacheError: the config asks for other clips; names the field.
        """
        parts = read_plan(self.source)
        wanted = clip_settings(self.config)
        for part in parts:
            if wrong := differences(part.settings, wanted):
                raise StaleCacheError(
                    f"{self.source}: the plan was prepared with other clips than {self.config.name} asks for: "
                    f"{wrong[0]}; use another --run, or the config of this one ({self.source / 'config.toml'})"
                )
        return parts

    def parts_of(self, split: str) -> list[Part]:
        """Parts of one split, "train" or "test"."""
        return [part for part in self.parts if part.split == split]

    @cached_property
    def annotations(self) -> Annotations:
        """The labels as `prepare` judged them."""
        return read_plain(self.source / "labels.csv", self.source / "classes.txt")

    @cached_property
    def labels_sha256(self) -> str:
        """Identity of all labels; part of a key only where labels change the bytes."""
        return _sha256(self.source / "labels.csv", self.source / "classes.txt")

    @cached_property
    def videos_root(self) -> Path:
        """Folder that the plan's video paths are relative to."""
        return Path(self.config.data.videos)

    @property
    def base_folder(self) -> Path:
        """Where this config's Base is trained. Its key holds the recipe, not the labels or the list of videos: a
        corrected label or a new video must not make every stored map worthless. `base.json` records both."""
        settings = {"clips": clip_settings(self.config), "base": asdict(self.config.base), "seed": self.config.seed}
        settings["base"]["init"] = _sha256(Path(self.config.base.init)) if self.config.base.init else ""
        # these change no number
        for name in (*NO_NUMBERS, "in_memory"):
            del settings["base"][name]
        return self.source / "models" / f"base-{fingerprint(json.loads(json.dumps(settings)))}"

    def frame_times(self, part: Part, row: int) -> np.ndarray:
        """Seconds of the frames of a clip, counted from the video's first frame: float64 (T,)."""
        return np.array(part.clip(row).frame_indices) / part.fps[row]

    def targets(self, part: Part, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Labels of clips: of their videos, float32 (B, C), and of their frames, float32 (B, T, C)."""
        ids = [part.video_ids[row] for row in rows]
        frames = [
            self.annotations.frame_targets(video_id, self.frame_times(part, row))
            for video_id, row in zip(ids, rows, strict=True)
        ]
        return self.annotations.video_targets(ids).astype(np.float32), np.stack(frames).astype(np.float32)


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise StageError(f"{path}: no such file")
        digest.update(bytes.fromhex(unchanged_sha256(path)))
    return digest.hexdigest()
