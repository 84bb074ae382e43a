"""Measure what a row of the paper's size costs on one core: its saliency map by ResNet50-I3D, and its crops."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import saliency_box
from benchmarks.networks import BOX, CLASSES, SIDE, clip
from models.backbones import build
from models.checkpoint import to_bytes
from models.frozen.fold import fold
from models.i3d import resnet50_i3d
from pipeline.config import Base, Clips, Config, Crops, Data, Saliency
from pipeline.data.video.write import write_video
from pipeline.run.folder import open_folder
from pipeline.stages import crops, prepare, saliency, train_base
from pipeline.workers.device import cpu_threads

FRAMES = 64  # T_in
TIMED_FRAMES = 16  # that are run through the network; its work is the same for every one of them
VIDEOS, ROWS, SECONDS, FPS, SIZE = 2, 4, 12, 24, (480, 640)  # of the generated videos


@dataclass(frozen=True)
class RowCost:
    """Of one row of FRAMES frames, input SIDE x SIDE, box BOX x BOX.

    Attributes:
        saliency_seconds: forward pass, input gradient and box, on one core.
        saliency_gflop: of that, 1e9 FLOP.
        crops_seconds: stage 2 for context and focused volume, decoding included, on one core.
    """

    saliency_seconds: float
    saliency_gflop: float
    crops_seconds: float


def measure(folder: Path) -> RowCost:
    """Time the saliency of a clip, and the crops of generated videos in an empty folder, in one thread."""
    with cpu_threads(torch.device("cpu"), 1):
        return RowCost(*_time_saliency(), _time_crops(folder))


def _time_saliency() -> tuple[float, float]:
    """Seconds and GFLOP of a row: forward pass, input gradient and box."""
    network, video = fold(resnet50_i3d(CLASSES)), clip(TIMED_FRAMES)
    saliency_box.ours(network, video)  # warm
    start = time.perf_counter()
    saliency_box.ours(network, video)
    seconds = time.perf_counter() - start
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(video)
    more = FRAMES / TIMED_FRAMES
    return more * seconds, more * 2 * counter.get_total_flops() / 1e9  # backward to the input alone takes as many


def _time_crops(folder: Path) -> float:
    """Seconds of a row in `crops`, with boxes in the centre."""
    config = _generate(folder)
    for stage in (prepare, train_base, saliency):
        stage.run(config, folder / "run")
    start = time.perf_counter()
    crops.run(config, folder / "run", ("center",))
    seconds = time.perf_counter() - start
    return seconds / sum(part.num_rows for part in open_folder(folder / "run", config).parts)


def _generate(folder: Path) -> Config:
    """Write videos of a coarse picture that drifts under noise, and a Base with random weights."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(40, 200, (40, 60, 3)), np.ones((16, 16, 1)))
    lines = ["video_id,split,start,end,label"]
    for number in range(VIDEOS):
        frames = (
            picture[time_ // 3 :, 2 * time_ // 3 :][: SIZE[0], : SIZE[1]] + rng.integers(-9, 9, (*SIZE, 1))
            for time_ in range(SECONDS * FPS)
        )
        write_video(folder / f"{number}.mp4", (frame.astype(np.uint8) for frame in frames), FPS)
        lines.append(f"{number},train,,,anything")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("anything\n")
    torch.manual_seed(0)  # the initialisers of torch.nn know no generator
    (folder / "weights.pt").write_bytes(to_bytes(build("small_i3d", 1).state_dict()))
    return Config(
        name="rows",
        data=Data(annotations=(str(folder / "table.csv"),), classes=str(folder / "classes.txt"), videos=str(folder)),
        clips=Clips(num_frames=FRAMES, input_side=SIDE, aug_seeds=ROWS, videos_per_unit=1),
        base=Base(epochs=0, network="small_i3d", init=str(folder / "weights.pt")),
        saliency=Saliency(objectives=(), box_side=BOX, batch_size=1),
        crops=Crops(),
        device="cpu",
    )
