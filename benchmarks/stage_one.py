"""Row 5: stage 1 on real-size videos, decoding included, against what its network alone takes for the same clips."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.networks import both_networks
from benchmarks.result import Result, of_times
from benchmarks.scene import Scene, forget, make
from benchmarks.timing import both_sides
from models.frozen.fold import fold
from models.i3d import as_input
from models.objectives import saliency_maps
from pipeline.data.clips import input_clips, video_rows
from pipeline.run.networks import build_base
from pipeline.stages import saliency

GOAL = 0.85


def measure() -> Result:
    with TemporaryDirectory() as folder:
        scene = make(Path(folder) / "scene", test=1, state=both_networks()[0].state_dict())
        clips, compute = _clips(scene), _network_alone(scene)
        logits = []

        def alone():
            logits[:] = [compute(clip) for clip in clips]

        def stage():
            forget(scene)
            saliency.run(scene.config, scene.run)

        times = both_sides(stage, alone, repeats=5)
        stores = scene.stores
        stored = stores.base(stores.run.parts_of("test")[0]).read_all("logits")
    difference = float(np.abs(stored - np.concatenate(logits)).max())
    return of_times(
        times,
        name="stage 1 on a 480 x 270 video of 30 s, 10 clips of 16 frames, against its network alone",
        goal=f"≥ {GOAL}",
        met=times.ratio >= GOAL and difference == 0,
        agreement=f"stored logits to {difference:.0e}" if difference else "stored logits equal",
    )


def _clips(scene: Scene) -> list[np.ndarray]:
    """V_in of every clip, uint8 (1, T, H, W, 3): decoded beforehand."""
    (part,) = scene.stores.run.parts_of("test")
    videos = [rows for unit in range(part.num_units) for _, rows in video_rows(part, unit)]
    return [volume[None] for rows in videos for _, volume, _ in input_clips(part, rows, scene.videos)]


def _network_alone(scene: Scene):
    """What stage 1 does with a clip once it has its pixels, and nothing else."""
    network = fold(build_base(scene.stores.base_weights))

    def compute(clip: np.ndarray) -> np.ndarray:
        logits, _ = saliency_maps(network, as_input(torch.from_numpy(clip)), ["entropy"])
        return logits.numpy()

    return compute
