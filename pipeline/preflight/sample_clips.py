"""A few real clips of the user's own videos, through decoder, network, box search and codecs: for what the stores take.

The functions are those of stages 1 and 2, and so are the bytes; nothing is written here.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cache.plan import Part
from cache.stores.frame_codec import encode_volume
from models.backbones import build
from models.box_search import quantise
from models.checkpoint import load_weights
from models.frozen.fold import fold
from models.i3d import as_input
from models.losses import entropy
from models.objectives import saliency_maps
from pipeline.config import Config, clip_settings
from pipeline.data.box_policies import find_box
from pipeline.data.clips import source_frames
from pipeline.data.pixels import apply_theta, crop_and_flip, cut_source, resize
from pipeline.data.video.sandbox import Prober
from pipeline.errors import VideoError
from pipeline.run.folder import Workspace
from pipeline.run.plan_rows import plan_rows, probe_row
from pipeline.workers.device import pick_device

CODECS = ("jpeg", "png")
ROWS = 4  # of each sampled video; decoding is timed for all of its planned rows


@dataclass
class SampledVideo:
    """One video that was decoded, looked at and cut.

    Attributes:
        row: of videos.csv. part: all planned rows. rows: the local rows that were looked at and cut.
        probe_seconds: to decode it whole, as `prepare` does.
        clips: V_in of `rows`, uint8 (R, T, H_in, W_in, 3). crc: uint32 (R, T).
        maps: objective to [(codes, scale)]; empty where there was no time for the network. logits: (R, T_out, C).
        encoded: (product, codec) to the frames of each row.
    """

    row: dict
    part: Part
    rows: list[int]
    probe_seconds: float
    clips: np.ndarray | None = None
    crc: np.ndarray | None = None
    maps: dict = field(default_factory=dict)
    logits: np.ndarray | None = None
    encoded: dict = field(default_factory=dict)


@dataclass
class Sample:
    """What one process measured.

    Attributes:
        videos: those that could be read. failed: ids of those that could not.
        row_seconds: of the network with its backward passes, a row.
        entered: time.time() when the process began.
        prober_seconds, prober_bytes: of a process that decodes for `prepare`: to start it, and at its peak.
    """

    videos: list[SampledVideo]
    failed: list[str]
    row_seconds: float = 0.0
    entered: float = 0.0
    prober_seconds: float = 0.0
    prober_bytes: int = 0


def measure(config: Config, jobs: list[tuple[str, str]], seconds: float, weights: Path | None, classes: int) -> Sample:
    """Take as many of the videos as the time allows, at least one of each split.

    Args:
        jobs: (video_id, split), in the order in which they are taken.
        seconds: for all of it, about.
        weights: of a trained Base; None for a network with random weights, whose boxes are random as well.
        classes: number of them.
    """
    sample, started = Sample([], [], entered=time.time()), time.monotonic()
    device = pick_device(config)
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(config.saliency.threads)
    try:
        splits = {split for _, split in jobs}
        with Prober(config.data.video_seconds, round(config.data.video_memory * 2**30)) as prober:
            begun = time.monotonic()
            prober.warm()
            sample.prober_seconds = time.monotonic() - begun
            for video_id, split in jobs:
                seen = {video.part.split for video in sample.videos}
                if seen == splits and time.monotonic() - started > 0.3 * seconds:
                    break
                if not (split in seen and time.monotonic() - started > 0.3 * seconds):
                    _decode(config, prober, video_id, split, sample)
            sample.prober_bytes = prober.warm()
        _look(config, sample, weights, classes, device, started + 0.7 * seconds)
        for video in sample.videos:
            _cut(config, video)
    finally:
        torch.set_num_threads(threads)
    return sample


def _decode(config: Config, prober: Prober, video_id: str, split: str, sample: Sample) -> None:
    """Probe and decode one video as `prepare` and stage 1 do; the frames of ROWS of its clips are kept, resized."""
    started = time.perf_counter()
    found = probe_row(config, prober, video_id, None)
    if isinstance(found, tuple):
        sample.failed.append(video_id)
        return
    probe_seconds = time.perf_counter() - started
    row = {"video_id": video_id, "split": split, **found}
    count = config.clips.aug_seeds if split == "train" else config.clips.eval_clips
    table = plan_rows(config, pd.DataFrame([row]), split, range(count))
    part = Part(f"part-000-{split}", split, table, count, 1, clip_settings(config))
    rows = sorted({place * count // min(ROWS, count) for place in range(min(ROWS, count))})
    clips = [part.clip(number) for number in rows]
    needed = {index for clip in clips for index in clip.frame_indices}
    resized, crc = {}, {}
    try:
        for index, frame, checksum in source_frames(Workspace(Path(), config), part, list(range(count))):
            small = resize(frame, clips[0].theta.resized_size)
            if index in needed:
                resized[index], crc[index] = small, checksum
    except VideoError:
        sample.failed.append(video_id)
        return
    volumes = [crop_and_flip(np.stack([resized[i] for i in clip.frame_indices]), clip.theta) for clip in clips]
    checks = np.array([[crc[i] for i in clip.frame_indices] for clip in clips], np.uint32)
    sample.videos.append(SampledVideo(row, part, rows, probe_seconds, np.stack(volumes), checks))


def _look(config: Config, sample: Sample, weights: Path | None, classes: int, device, deadline: float) -> None:
    """Run stage 1's network over the kept clips: one to warm up and judge its time, then batches while time lasts."""
    if not sample.videos:
        return
    network = build(config.base.network, classes)
    if weights:
        load_weights(network, weights)
    network = fold(network).to(device)
    todo, size = list(sample.videos), config.saliency.batch_size
    _batch(config, network, todo[0].clips[:1], classes, device)
    single = _batch(config, network, todo[0].clips[:1], classes, device)[0]
    size = size if time.monotonic() + 2 * single * size < deadline else 1
    spent, looked = 0.0, 0
    while todo and (not looked or time.monotonic() + spent / looked * size < deadline):
        videos = [todo.pop(0)]
        while todo and sum(len(video.rows) for video in videos) + len(todo[0].rows) <= size:
            videos.append(todo.pop(0))
        rows = np.concatenate([video.clips for video in videos])
        results = [
            _batch(config, network, rows[first : first + size], classes, device) for first in range(0, len(rows), size)
        ]
        spent, looked = spent + sum(result[0] for result in results), looked + len(rows)
        logits = np.concatenate([result[1] for result in results])
        maps = {name: [one for result in results for one in result[2][name]] for name in config.saliency.objectives}
        for video in videos:
            count = len(video.rows)
            video.logits, logits = logits[:count], logits[count:]
            video.maps = {name: found[:count] for name, found in maps.items()}
            maps = {name: found[count:] for name, found in maps.items()}
    sample.row_seconds = spent / looked


def _batch(config: Config, network, clips: np.ndarray, classes: int, device) -> tuple[float, np.ndarray, dict]:
    """(seconds, logits, maps as they are stored) of some clips."""
    started = time.perf_counter()
    video, targets = as_input(torch.from_numpy(clips), device), None
    if "cross_entropy" in config.saliency.objectives:  # any labels take the same time
        shapes = (len(clips), classes), (len(clips), clips.shape[1], classes)
        targets = tuple(torch.zeros(shape, device=device) for shape in shapes)
    logits, maps = saliency_maps(network, video, config.saliency.objectives, config, targets)
    stored = {name: [quantise(one) for one in found.cpu().numpy()] for name, found in maps.items()}
    entropy(logits)
    return time.perf_counter() - started, logits.cpu().numpy(), stored


def _cut(config: Config, video: SampledVideo) -> None:
    """Cut and encode the kept clips of a video as stage 2 does, in both codecs, where the first objective looks."""
    clips, boxes = [video.part.clip(row) for row in video.rows], []
    maps = next(iter(video.maps.values()), None)
    for number, clip in enumerate(clips):
        looks = maps is not None and bool(maps[number][0].any())
        policy = config.saliency.objectives[0] if looks else "random"
        boxes.append(find_box(config, clip, policy, maps[number][0] if looks else None)[0])
    names = [(product, codec) for product in ("context", "crops") for codec in CODECS]
    video.encoded = {name: [[b""] * video.part.num_frames for _ in clips] for name in names}
    for index, frame, _ in source_frames(Workspace(Path(), config), video.part, video.rows):
        for number, clip in enumerate(clips):
            if index not in clip.frame_indices:
                continue
            pictures = {"context": apply_theta(frame, clip.theta)}
            pictures["crops"] = cut_source(frame, clip.theta, boxes[number], video.part.input_size)
            for product, codec in names:
                (content,) = encode_volume(pictures[product][None], codec, config.crops.quality)
                for place, wanted in enumerate(clip.frame_indices):
                    if wanted == index:
                        video.encoded[product, codec][number][place] = content
