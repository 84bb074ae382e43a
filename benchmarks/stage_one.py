"""Row 5: stage 1 on real-size videos, decoding included, against what its network alone takes for the same clips."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.networks import both_networks
from benchmarks.result import Result, of_times
from benchmarks.scene import Scene, make
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
        clips, network = _clips(scene), fold(build_base(scene.stores.base_weights))
        logits = []

        def alone():
            """What stage 1 does with clips once it has their pixels, and nothing else."""
            logits[:] = [saliency_maps(network, clip, ["entropy"])[0].numpy() for clip in map(as_input, clips)]

        def stage():
            for product in ("base", "maps", "boxes"):  # make them again
                shutil.rmtree(scene.run / product, ignore_errors=True)
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


def _clips(scene: Scene) -> list[torch.Tensor]:
    """V_in of every clip, uint8 (1, T, H, W, 3): decoded beforehand."""
    (part,) = scene.stores.run.parts_of("test")
    videos = [rows for unit in range(part.num_units) for _, rows in video_rows(part, unit)]
    volumes = [volume for rows in videos for _, volume, _ in input_clips(part, rows, scene.videos)]
    return [torch.from_numpy(volume[None]) for volume in volumes]
