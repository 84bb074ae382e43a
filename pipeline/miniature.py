"""The miniature: a small data set with planted truth, in the Charades format, as real H.264 files.

A figure moves over clutter and carries one to three cards. A card's colour tells its pair of classes and survives
the resize to 64 x 64; its print, a fine grating along rows or columns, tells the class and does not: only the source
pixels carry it, and a coarse decoy drowns what the resize leaves of it. Where every card is, is written down.
Lengths below are pixels of the resized frame, times are seconds, colours are RGB in [0, 1].
"""

import colorsys
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from cache.commit import write_file
from pipeline.annotations import charades_row, write_charades_csv
from pipeline.config import Config
from pipeline.progress import progress
from pipeline.site import here
from pipeline.workspace import Outcome, StageError
from pipeline.write_video import write_video

PAIRS = ("red", "yellow", "green", "blue", "purple")
PAIR_HUES = (0.0, 0.15, 0.36, 0.58, 0.82)
CLASSES = tuple(f"Holding a {colour} card printed in {way}" for colour in PAIRS for way in ("rows", "columns"))
VERSION = 1  # raised when the same settings would give other videos
CARD_COLUMNS = ("video_id", "card", "frame", "fps", "top", "left", "height", "width")  # source pixels, source frames
RESIZED = 64
CARD, PRINT = 10.5, 8.5  # edge of a card and of the print on it
SLOTS = ((0.0, 0.0), (0.0, 12.0), (12.0, 0.0), (12.0, 12.0))  # where the cards of one hand can be
FINE_PERIOD, COARSE_PERIOD = 1.5, 3.0  # the print; the decoy, at the alias of the print
FINE_AMPLITUDE, FINE_POWER = 0.35, 1.5  # a card's amplitude is 0.35 u^1.5, u uniform: some prints are hardly there
COARSE_AMPLITUDE = 0.27  # of the decoy, at most
NOISE = 0.02
EDGE = 6.0  # no card comes closer to the border of the frame
CENTRE_GAP = 8.0  # the cards' centre keeps this distance from the frame's centre along one axis at least
SCALES = (2.0, 2.25, 2.5, 3.0, 4.0)  # source / resized, drawn for each axis
SCALE_ODDS = (0.4, 0.25, 0.2, 0.1, 0.05)
SOURCE_FPS = (8, 10, 12)
SECONDS = (2.0, 3.0)


@dataclass(frozen=True)
class Card:
    """One card of one video: where it is relative to the hand, and while which seconds it is on screen."""

    class_index: int
    slot: tuple[float, float]
    start: float
    end: float


@dataclass(frozen=True)
class Script:
    """What happens in one video, before any pixel is drawn."""

    video_id: str
    split: str
    scale: tuple[float, float]
    fps: int
    num_frames: int
    cards: tuple[Card, ...]
    path: np.ndarray  # (num_frames, 2) top-left of the hand, resized pixels (y, x)

    @property
    def source_size(self) -> tuple[int, int]:
        """(height, width) of the video, even numbers."""
        return tuple(2 * round(RESIZED * scale / 2) for scale in self.scale)

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.num_frames / self.fps


def write_script(video_id: str, split: str, rng: np.random.Generator) -> Script:
    """Draw one video's size, length, cards and motion."""
    scale = tuple(float(s) for s in rng.choice(SCALES, 2, p=SCALE_ODDS))
    fps = int(rng.choice(SOURCE_FPS))
    num_frames = int(np.ceil(rng.uniform(*SECONDS) * fps))
    seconds = num_frames / fps
    slots = rng.permutation(len(SLOTS))[: rng.integers(1, 4)]
    cards = []
    for slot in slots:
        start, end = 0.0, seconds
        if rng.random() < 0.25:  # some classes hold only for a part of the video
            start, end = (
                (0.0, seconds * rng.uniform(0.5, 0.8))
                if rng.random() < 0.5
                else (seconds * rng.uniform(0.2, 0.5), seconds)
            )
        cards.append(Card(int(rng.integers(len(CLASSES))), SLOTS[slot], round(start, 2), round(end, 2)))
    offsets = np.array([card.slot for card in cards])
    low, high = offsets.min(0), offsets.max(0) + CARD  # extent of the cards relative to the hand, (y, x)
    return Script(video_id, split, scale, fps, num_frames, tuple(cards), _motion(num_frames, fps, low, high, rng))


def _motion(num_frames: int, fps: int, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slow path of the hand that keeps all cards off the border and off the centre of the frame."""
    time = np.arange(num_frames)[:, None] / fps
    swing = rng.uniform(0.5, 2.0, 2) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.5, 2) * time + rng.random(2)))
    path = swing + rng.uniform(-1.5, 1.5, 2) * time
    path -= path.mean(0)
    room_low, room_high = EDGE - low - path.min(0), RESIZED - EDGE - high - path.max(0)
    while True:
        start = rng.uniform(room_low, room_high)
        if np.abs(start + (low + high) / 2 - RESIZED / 2).max() >= CENTRE_GAP:
            return path + start


def draw_video(script: Script, rng: np.random.Generator):
    """Draw a script.

    Yields:
        (frame uint8 (H, W, 3), [(card number, top, left, height, width) in source pixels of each visible card])
    """
    height, width = script.source_size
    hues = _hues(script.split, rng)
    background = _clutter(height, width, hues, rng)
    figure, anchor = _figure(script.scale, hues, rng)
    patches = [_card_patch(card.class_index, script.scale, script.split, rng) for card in script.cards]
    for number, hand in enumerate(script.path):
        frame = background.copy()
        _paste(frame, figure, *np.round((hand - anchor) * script.scale).astype(int))
        visible = []
        for index, (card, patch) in enumerate(zip(script.cards, patches, strict=True)):
            if card.start <= number / script.fps <= card.end:
                top, left = np.round((hand + card.slot) * script.scale).astype(int)
                _paste(frame, patch, top, left)
                visible.append((index, int(top), int(left), *patch.shape[:2]))
        frame += rng.standard_normal((height, width, 1), dtype=np.float32) * NOISE
        yield (frame.clip(0, 1) * 255 + 0.5).astype(np.uint8), visible


def _hues(split: str, rng: np.random.Generator) -> np.ndarray:
    """Eight hues in [0, 1) for clutter and figure; training and evaluation draw from interleaved bands."""
    band = rng.integers(0, 18, 8) * 2 + (split == "test")
    return (band + rng.random(8)) / 36


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def _clutter(height: int, width: int, hues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A still background of dull rectangles and ellipses, float32 (H, W, 3)."""
    ramp = np.linspace(-0.1, 0.1, height, dtype=np.float32)[:, None, None] * rng.uniform(-1, 1)
    image = np.broadcast_to(_colour(hues[0], 0.2, rng.uniform(0.35, 0.65)) + ramp, (height, width, 3)).copy()
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rows, columns = rows / height, columns / width
    for _ in range(14):
        centre_y, centre_x = rng.random(2)
        half_y, half_x = rng.uniform(0.02, 0.16, 2)
        dy, dx = np.abs(rows - centre_y) / half_y, np.abs(columns - centre_x) / half_x
        inside = np.maximum(dy, dx) < 1 if rng.random() < 0.6 else dy**2 + dx**2 < 1
        image[inside] = _colour(rng.choice(hues), rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.8))
    return image


def _figure(scale: tuple[float, float], hues: np.ndarray, rng: np.random.Generator):
    """A person-like shape, float32 (h, w, 4) with alpha, and where in it the hand is, resized pixels (y, x)."""
    height, width = 44.0, 18.0
    rows, columns = np.mgrid[0 : round(height * scale[0]), 0 : round(width * scale[1])].astype(np.float32)
    rows, columns = rows / scale[0], columns / scale[1]
    head = ((rows - 5) / 5) ** 2 + ((columns - 9) / 4) ** 2 < 1
    body = (rows >= 10) & (rows < 27) & (np.abs(columns - 9) < 6)
    legs = (rows >= 27) & (np.abs(np.abs(columns - 9) - 3) < 2.2)
    image = np.zeros((*rows.shape, 4), np.float32)
    for part, hue in ((head, 0.07), (body, hues[1]), (legs, hues[2])):
        image[part, :3] = _colour(hue, 0.3, rng.uniform(0.3, 0.75))
        image[part, 3] = 1
    return image, np.array([16.0, rng.choice([14.0, -12.0])])


def _card_patch(class_index: int, scale: tuple[float, float], split: str, rng: np.random.Generator) -> np.ndarray:
    """A card with its print and decoy, float32 (h, w, 4), all opaque."""
    pair, way = divmod(class_index, 2)
    size = [round(CARD * s) for s in scale]
    patch = np.ones((*size, 4), np.float32)
    patch[..., :3] = _colour(
        PAIR_HUES[pair] + rng.uniform(-0.015, 0.015), rng.uniform(0.55, 0.7), rng.uniform(0.6, 0.7)
    )
    rows, columns = (np.arange(n, dtype=np.float32) / s for n, s in zip(size, scale, strict=True))
    turn = (rng.random(3) + (split == "test")) * np.pi  # phases of training in [0, pi), of evaluation in [pi, 2 pi)
    decoy = rng.uniform(0, COARSE_AMPLITUDE, 2)
    fine = rows[:, None] + 0 * columns if way == 0 else columns + 0 * rows[:, None]
    light = FINE_AMPLITUDE * rng.random() ** FINE_POWER * np.sin(2 * np.pi * fine / FINE_PERIOD + turn[0])
    light += decoy[0] * np.sin(2 * np.pi * rows[:, None] / COARSE_PERIOD + turn[1])
    light += decoy[1] * np.sin(2 * np.pi * columns / COARSE_PERIOD + turn[2])
    rim = [round((CARD - PRINT) / 2 * s) for s in scale]
    inner = (slice(rim[0], size[0] - rim[0]), slice(rim[1], size[1] - rim[1]))
    patch[*inner, :3] += light[inner][..., None]
    return patch


def _paste(frame: np.ndarray, patch: np.ndarray, top: int, left: int) -> None:
    """Lay patch (h, w, 4) over frame (H, W, 3), cut at the frame's borders."""
    rows = slice(max(top, 0), max(min(top + patch.shape[0], frame.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + patch.shape[1], frame.shape[1]), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    piece = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    target = frame[rows, columns]
    np.copyto(target, piece[..., :3], where=piece[..., 3:] > 0)


def generate(config: Config) -> Outcome:
    """Write the data set into `data.videos`: train.csv, test.csv, classes.txt, cards.csv and one MP4 a video.

    The same settings give the same files. What is complete is left alone.

    Raises:
        StageError: the folder holds a data set made with other settings.
    """
    data, root = config.data, Path(config.data.videos)
    settings = {"train_videos": data.train_videos, "eval_videos": data.eval_videos, "data_seed": data.data_seed}
    about = (json.dumps(settings | {"version": VERSION}, indent=2) + "\n").encode()
    if (root / "miniature.json").exists():
        if (root / "miniature.json").read_bytes() != about:
            raise StageError(
                f"{root} holds a miniature made with other settings; delete it, or name another data.videos"
            )
        return Outcome(root, "already there")
    root.mkdir(parents=True, exist_ok=True)
    jobs = [
        (split, n) for split, count in (("train", data.train_videos), ("test", data.eval_videos)) for n in range(count)
    ]
    calls = (delayed(here(_make_video))(root, data.data_seed, split, number) for split, number in jobs)
    made = Parallel(n_jobs=config.workers, return_as="generator")(calls)
    made = list(progress(made, len(jobs), "miniature", "videos"))
    for split in ("train", "test"):
        rows = [
            charades_row(s.video_id, [(c.class_index, c.start, c.end) for c in s.cards], s.seconds)
            for s, _ in made
            if s.split == split
        ]
        write_charades_csv(root / f"{split}.csv", rows)
    write_file(root / "classes.txt", "".join(f"c{i:03d} {name}\n" for i, name in enumerate(CLASSES)).encode())
    cards = pd.DataFrame([row for _, rows in made for row in rows], columns=CARD_COLUMNS)
    write_file(root / "cards.csv", cards.to_csv(index=False).encode())
    write_file(root / "miniature.json", about)
    return Outcome(root, f"{data.train_videos} training and {data.eval_videos} evaluation videos")


def _make_video(root: Path, data_seed: int, split: str, number: int) -> tuple[Script, list[tuple]]:
    """Draw and encode one video; its script and the places of its cards."""
    video_id = f"{split.upper()}{number:05d}"
    rng = np.random.default_rng([data_seed, split == "test", number])
    script, places = write_script(video_id, split, rng), []

    def frames():
        for index, (frame, visible) in enumerate(draw_video(script, rng)):
            places.extend((video_id, card, index, script.fps, *box) for card, *box in visible)
            yield frame

    write_video(root / f"{video_id}.mp4", frames(), script.fps)
    return script, places
