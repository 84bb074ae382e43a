"""Rows 9 and 10: focused volumes of T = 64 as stage 2 stores them, against the same clips decoded and cut, and raw."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.key_frame import clip_frames
from benchmarks.result import Result, of_times
from benchmarks.scene import REAL, Scene, make
from benchmarks.timing import both_sides
from cache.plan import Part
from cache.stores.volume_store import VolumeStore
from pipeline.data.box_policies import find_boxes
from pipeline.data.pixels import cut_source
from pipeline.stages import crops

CLIPS = 6
FASTER, LOSS = 8.0, 30.0  # row 9: ratio, and decibels that JPEG must keep
SHARE, DECIBELS = 0.12, 37.0  # row 10
SOURCE = "a real 480 x 270 video" if REAL.exists() else "a generated 480 x 270 video; no real one is there"


def measure_reading() -> Result:
    """Row 9: one worker reads the volumes from the cache."""
    with _stored() as volumes:
        quality = _decibels(volumes.read(), volumes.cut())
        times = both_sides(volumes.read, volumes.cut, repeats=5)
        count = volumes.part.num_rows
    return of_times(
        times,
        name=f"{count} focused volumes of 64 frames from the cache, against decoding and cutting {SOURCE}",
        goal=f"≥ {FASTER:g}",
        met=times.ratio >= FASTER and quality >= LOSS,
        agreement=f"equal but for JPEG, {quality:.1f} dB",
    )


def measure_bytes() -> Result:
    """Row 10: bytes on the disk with the default codec, and what it costs in quality."""
    with _stored() as volumes:
        records = [volumes.store.product.checked_record(unit) for unit in range(volumes.part.num_units)]
        size = sum(file["bytes"] for record in records for file in record["files"])
        exact = volumes.cut()
        quality = _decibels(volumes.read(), exact)
    raw = sum(volume.nbytes for volume in exact)
    return Result(
        name=f"bytes of focused volumes of {SOURCE}, JPEG, against raw uint8",
        ours=size / 1e6,
        theirs=raw / 1e6,
        ratio=size / raw,
        goal=f"≤ {SHARE} at ≥ {DECIBELS:g} dB",
        met=size / raw <= SHARE and quality >= DECIBELS,
        agreement=f"{quality:.1f} dB",
        unit="MB",
    )


@dataclass(frozen=True)
class _Volumes:
    """Focused volumes of the evaluation clips of one video, boxes in the centre, default codec."""

    scene: Scene
    part: Part
    store: VolumeStore

    def read(self) -> list[np.ndarray]:
        """All volumes from the cache, uint8 (T, S, S, 3) each."""
        return [self.store.volume(row) for row in range(self.part.num_rows)]

    def cut(self) -> list[np.ndarray]:
        """The same, decoded from the nearest key frame and cut."""
        return [self._cut(row) for row in range(self.part.num_rows)]

    def _cut(self, row: int) -> np.ndarray:
        clip, path = self.part.clip(row), self.scene.videos / self.part.rows.video_path.iat[row]
        ((box, _),) = find_boxes(clip, "center", self.scene.config.saliency, (0, 0))
        frames = clip_frames(path, sorted(set(clip.frame_indices)), self.scene.config.clips.fps)
        found = {index: cut_source(frame, clip.theta, box, clip.theta.input_size) for index, frame in frames}
        return np.stack([found[index] for index in clip.frame_indices])


@contextmanager
def _stored() -> Iterator[_Volumes]:
    """Store volumes in a folder that is deleted afterwards."""
    with TemporaryDirectory() as folder:
        video = REAL if REAL.exists() else None
        scene = make(Path(folder) / "scene", test=1, network="small_i3d", video=video, num_frames=64, eval_clips=CLIPS)
        crops.run(scene.config, scene.run, ("center",), context=False)
        stores = scene.stores
        (part,) = stores.run.parts_of("test")
        yield _Volumes(scene, part, stores.crops(part, "center", "source"))


def _decibels(volumes: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """Peak signal-to-noise ratio over all pixels."""
    squares = [np.square(one.astype(np.float32) - other).mean() for one, other in zip(volumes, exact, strict=True)]
    return float(10 * np.log10(255**2 / max(np.mean(squares), 1e-9)))
