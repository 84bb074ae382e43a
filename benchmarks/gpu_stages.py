"""The stages on one card: how long it waits for decoding; training steps from the caches and on the fly."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from joblib import cpu_count

from benchmarks.gpu_networks import Measured
from benchmarks.scene import Scene, make, write_pictures
from models.precision import Precision
from pipeline.stages import crops, saliency, train_fusion, train_online
from pipeline.training.loader import num_steps
from pipeline.workers import phases

SIZE, BATCH = (270, 480), 8  # (height, width) of the videos; clips of a training step
CLIPS = {"num_frames": 64, "resized_side": 256, "input_side": 224, "videos_per_unit": 8}
NETWORK = "resnet50_i3d"
DESCRIPTION = "Stage 1 looks at ten clips of each of 96 videos, stage 3 learns late fusion from one clip of each of 48"


def make_scene(
    folder: Path, device: torch.device, network: str = NETWORK, train: int = 48, test: int = 96, **clips: int
) -> Scene:
    """Make a run of copies of one generated video in an empty folder; stage 1 computes in bfloat16.

    Args:
        train, test: number of videos of each split.
        clips: other settings of `Clips` than CLIPS.
    """
    clips = CLIPS | clips
    write_pictures(folder / "video.mp4", 2.5 * clips["num_frames"] / 8, SIZE, seed=0)
    scene = make(folder / "scene", train, test, network=network, video=folder / "video.mp4", **clips)
    config, workers = scene.config, min(8, cpu_count()) if device.type == "cuda" else 0
    look = replace(config.saliency, precision="bfloat16", batch_size=10, box_side=config.clips.input_side * 4 // 7)
    fusion = replace(config.fusion, batch_size=BATCH, epochs=2, learning_rate=1e-5, loader_workers=workers)
    return replace(scene, config=replace(config, device=device.type, saliency=look, fusion=fusion))


def waiting(scene: Scene, workers: int) -> Measured:
    """Run stage 1 on the evaluation videos with so many decode workers; see how long the device waits for them."""
    for product in ("base", "maps", "boxes"):  # make them again
        shutil.rmtree(scene.run / product, ignore_errors=True)
    with phases.profile(lambda table: None, "stage 1") as seconds:
        saliency.run(replace(scene.config, workers=workers), scene.run, splits=("test",))
    total = sum(value for (_, ahead), value in seconds.items() if not ahead)
    waited = seconds.get(("wait", False), 0.0)
    return Measured(_rows(scene, "test") / total, "clips/s", waited=(waited, waited / total))


def training(scene: Scene, cached: bool, precision: Precision) -> Measured:
    """Train late fusion for two epochs, from the caches, which are filled before, or on the fly; time the second."""
    fusion = replace(scene.config.fusion, autocast=precision == "bfloat16", tf32=precision == "tf32")
    config = replace(scene.config, fusion=fusion)
    if cached:
        filling = replace(config, workers=cpu_count() if config.device == "cuda" else 1)
        saliency.run(filling, scene.run, splits=("train",))
        crops.run(filling, scene.run, ("entropy",), context=False, splits=("train",))
    trained = (train_fusion if cached else train_online).run(config, scene.run, "late").path
    last = pd.read_csv(trained / "metrics.csv").iloc[-1]
    rate = num_steps(_rows(scene, "train"), fusion) / last.seconds
    waited = last.waiting_share * last.seconds, last.waiting_share
    return Measured(rate, f"steps/s of {fusion.batch_size} clips", waited=waited)


def _rows(scene: Scene, split: str) -> int:
    return sum(part.num_rows for part in scene.stores.run.parts_of(split))
