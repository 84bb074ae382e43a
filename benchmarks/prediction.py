"""Rows 15 and 16: predict on a real-size video, against the plain script that one would write; against the stages."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks import BOX, SIDE, both_networks
from benchmarks.result import Result
from benchmarks.saliency_box import plainly
from benchmarks.scene import Scene, make
from benchmarks.timing import interleaved
from models.fusion import clip_logits
from models.i3d import as_input
from models.objectives import saliency_maps
from models.precision import tf32
from pipeline import focus
from pipeline.data.pixels import resize
from pipeline.data.video.probe import scan
from pipeline.predict.model import Model
from pipeline.predict.windows import read_windows, starts_by_stride, stride_frames, video_of
from pipeline.run.fusion_models import Variant, model_facts, model_folder
from pipeline.run.networks import write_trained
from pipeline.stages import crops, evaluate, prepare, saliency

REPEATS, STRIDE = 2, 2.0
FASTER, IN_NETWORKS = 1.5, 0.85
NAME = "late-entropy-source"


@dataclass(frozen=True)
class Trained:
    """A run with Base and a late-fusion model of the same weights, and its video."""

    scene: Scene
    video: Path


def trained(folder: Path, seconds: float) -> Trained:
    state = both_networks()[0].state_dict()
    scene = make(folder / "scene", test=1, seconds=seconds, state=state)
    stores = scene.stores
    facts = model_facts(stores.run, scene.config, stores.base_weights, Variant()) | {"num_videos": 0}
    write_trained(model_folder(stores.run, facts) / "model.json", state, facts)
    return Trained(scene, scene.videos / "V00.mp4")


def against_plain_script(seconds: float = 30.0) -> Result:
    """Both look at the same windows; the script decodes with OpenCV, each frame once, and holds them all."""
    with tempfile.TemporaryDirectory() as folder:
        there = trained(Path(folder), seconds)
        model, plain = focus.load(there.scene.run, NAME, "cpu"), both_networks()[1]
        rule, scores = focus.WindowRule("stride", STRIDE), {}

        def ours():
            scores["ours"] = next(model.predict(there.video, rule)).scores.to_numpy()

        def script():
            scores["script"] = _script(plain, there.video)

        alone = _networks_alone(model.model, there.video)
        found = interleaved({"ours": ours, "script": script, "alone": alone}, REPEATS)
        times = {name: float(np.median(one)) for name, one in found.items()}
    share, faster = times["alone"] / times["ours"], times["script"] / times["ours"]
    difference = float(np.abs(scores["ours"] - scores["script"]).max())
    return Result(
        f"predict on a 480 x 270 video of {seconds:g} s, 16 frames every {STRIDE:g} s, against a plain script",
        *(times["ours"], times["script"], faster),
        goal=f"≥ {FASTER}; ≥ {IN_NETWORKS:.0%} of it in the networks",
        met=faster >= FASTER and share >= IN_NETWORKS,
        agreement=f"scores to {difference:.0e} (another decoder); {share:.0%} of the time in the networks",
    )


def against_stages(seconds: float = 30.0) -> Result:
    """The clips of `evaluate`: one pass, or prepare, saliency, crops and evaluate, which leave caches behind."""
    with tempfile.TemporaryDirectory() as folder:
        there = trained(Path(folder), seconds)
        scene, scores = there.scene, {}
        model = focus.load(scene.run, NAME, "cpu")

        def ours():
            found = next(model.predict(there.video, focus.WindowRule("as-evaluated")))
            scores["ours"] = found.scores.to_numpy()

        def stages():
            for product in ("base", "maps", "boxes", "context", "crops", "results", "results.csv", "videos.csv"):
                path = scene.run / product
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            prepare.run(scene.config, scene.run)
            saliency.run(scene.config, scene.run)
            crops.run(scene.config, scene.run, ("entropy",))
            evaluate.run(scene.config, scene.run)

        found = interleaved({"ours": ours, "stages": stages}, REPEATS)
        times = {name: float(np.median(one)) for name, one in found.items()}
        (path,) = scene.run.glob(f"results/{NAME}-*.scores.txt")
        stored = np.array(path.read_text().split()[1:], float)
    difference = float(np.abs(scores["ours"] - 1 / (1 + np.exp(-stored))).max())
    ratio = times["stages"] / times["ours"]
    return Result(
        f"predict on the 10 clips of a 480 x 270 video of {seconds:g} s, against prepare, saliency, crops and evaluate",
        *(times["ours"], times["stages"], ratio),
        goal="≥ 1",
        met=ratio >= 1 and difference < 0.1,
        agreement=f"scores to {difference:.0e} (JPEG)",
    )


def _networks_alone(model: Model, video: Path):
    """Return a function that does what predict does with windows once it has their pixels, and nothing else."""
    settings = model.settings
    planned = video_of("V00", video, scan(video), settings.clips, 0.0)
    step = stride_frames(STRIDE, settings.clips, planned.fps)
    starts = starts_by_stride(planned.num_frames, settings.clips.num_frames, step)
    windows = list(read_windows(planned, starts, settings.clips))
    contexts = [torch.from_numpy(window.pixels[None]) for window in windows]
    return lambda: [_both(model, context) for context in contexts]


def _both(model: Model, context: Tensor) -> Tensor:
    logits, _ = saliency_maps(model.base, as_input(context), ["entropy"])
    with torch.inference_mode(), tf32(False):
        return clip_logits((logits + model.second(as_input(context)).float()) / 2)


def _script(network: torch.nn.Module, video: Path) -> np.ndarray:
    """What one would write: decode, autograd, the box by a convolution with ones, crop by OpenCV, second pass."""
    import cv2

    frames, capture, number = [], cv2.VideoCapture(str(video)), 0
    rate = capture.get(cv2.CAP_PROP_FPS)
    while True:
        there, frame = capture.read()
        if not there:
            break
        while len(frames) / 8 < (number + 1) / rate:  # 8 frames a second, each the one on screen
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        number += 1
    last, best = len(frames) - 16, None
    for start in [*range(0, last, round(8 * STRIDE)), last]:
        clip, off = frames[start : start + 16], (256 - SIDE) // 2
        small = [resize(frame, (256, 256))[off:-off, off:-off] for frame in clip]  # OpenCV's has no antialiasing
        context = torch.from_numpy(np.stack(small))[None].float() / 255
        looked = plainly(network, context)
        top, left = looked.box
        scale_y, scale_x = clip[0].shape[0] / 256, clip[0].shape[1] / 256
        rows = slice(int((top + off) * scale_y), int(np.ceil((top + off + BOX) * scale_y)))
        columns = slice(int((left + off) * scale_x), int(np.ceil((left + off + BOX) * scale_x)))
        cut = np.stack([cv2.resize(frame[rows, columns], (SIDE, SIDE)) for frame in clip])
        with torch.no_grad():
            focused = network(torch.from_numpy(cut)[None].float() / 255)
            logits = ((looked.logits + focused) / 2).mean(1)[0].numpy()
        best = logits if best is None else np.maximum(best, logits)
    return 1 / (1 + np.exp(-best.astype(np.float64)))
