"""What happens in a generated video: cards, places, motion."""

from dataclasses import dataclass

import numpy as np

from pipeline.data.miniature.worlds import Kind, World

PAIRS = ("red", "yellow", "green", "blue", "purple")
CLASSES = tuple(f"Holding a {colour} card printed in {way}" for colour in PAIRS for way in ("rows", "columns"))
RESIZED = 64
SLOTS = ((0.0, 0.0), (0.0, 12.0), (12.0, 0.0), (12.0, 12.0))  # where the cards of one hand can be
EDGE = 6.0  # no card comes closer to the border of the frame
CENTRE_GAP = 8.0  # the cards' centre keeps this distance from the frame's centre along one axis at least
FAR, ASIDE = (29.0, 32.0), 10.0  # of two far cards: their distance along one axis, and at most along the other
SOURCE_FPS = (8, 10, 12)
SECONDS = (2.0, 3.0)


@dataclass(frozen=True)
class Card:
    """One card of one video: where it is relative to the hand, and while which seconds it is on screen."""

    class_index: int
    slot: tuple[float, float]
    start: float
    end: float
    kind: Kind


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
        """Height and width of the video, even numbers."""
        return tuple(2 * round(RESIZED * scale / 2) for scale in self.scale)


def write_script(video_id: str, split: str, rng: np.random.Generator, world: World) -> Script:
    """Choose one video's size, length, cards and motion."""
    scale = tuple(float(s) for s in rng.choice(world.scales, 2, p=world.scale_odds))
    fps = int(rng.choice(SOURCE_FPS))
    num_frames = int(np.ceil(rng.uniform(*SECONDS) * fps))
    seconds = num_frames / fps
    if world.far:
        slots = _far_slots(rng)
    else:
        slots = [SLOTS[one] for one in rng.permutation(len(SLOTS))[: rng.integers(1, world.most_cards + 1)]]
    kind = world.kinds[rng.integers(len(world.kinds))] if len(world.kinds) > 1 else world.kinds[0]
    cards = []
    for slot in slots:
        start, end = 0.0, seconds
        if rng.random() < 0.25:  # some classes hold only for a part of the video
            if rng.random() < 0.5:
                end = seconds * rng.uniform(0.5, 0.8)
            else:
                start = seconds * rng.uniform(0.2, 0.5)
        class_index = int(rng.integers(world.num_classes))
        while world.far and class_index in [card.class_index for card in cards]:
            class_index = int(rng.integers(world.num_classes))
        cards.append(Card(class_index, slot, round(start, 2), round(end, 2), kind))
    offsets = np.array([card.slot for card in cards])
    low, high = offsets.min(0), offsets.max(0) + kind.edge  # extent of the cards relative to the hand, (y, x)
    return Script(video_id, split, scale, fps, num_frames, tuple(cards), _motion(num_frames, fps, low, high, rng))


def _far_slots(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Draw the places of two cards that no box of half the frame's side can hold."""
    far, aside = rng.uniform(*FAR), rng.uniform(0, ASIDE)
    y, x = (far, aside) if rng.random() < 0.5 else (aside, far)
    return [(0.0, 0.0), (y, x)] if rng.random() < 0.5 else [(y, 0.0), (0.0, x)]


def _motion(num_frames: int, fps: int, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a slow path of the hand that keeps all cards off the border and off the centre of the frame."""
    time = np.arange(num_frames)[:, None] / fps
    swing = rng.uniform(0.5, 2.0, 2) * np.sin(2 * np.pi * (rng.uniform(0.2, 0.5, 2) * time + rng.random(2)))
    path = swing + rng.uniform(-1.5, 1.5, 2) * time
    path -= path.mean(0)
    room_low, room_high = EDGE - low - path.min(0), RESIZED - EDGE - high - path.max(0)
    while True:
        start = rng.uniform(room_low, room_high)
        if np.abs(start + (low + high) / 2 - RESIZED / 2).max() >= CENTRE_GAP:
            return path + start
