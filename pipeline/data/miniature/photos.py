"""The world of photographs: pictures on the cards, moving pictures behind the figure, from files of the user's."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cache.errors import relative_to
from pipeline.data.video.frames import read_frames
from pipeline.data.video.probe import probe
from pipeline.errors import StageError

LEAST = 8  # photographs of a class; one with fewer is left out
DRAWN = ("cartoon", "toys")  # folders that hold no photographs
EVALUATED = 3  # one in so many photographs, and the last so-many-th of each video, is for evaluation
MARGIN = 0.06  # share of a card's edge around its photograph


@dataclass(frozen=True)
class Gallery:
    """What cards and background are made from.

    Attributes:
        classes: names of the folders of photographs.
        photos: for each split, for each class, its files; none is in both splits.
        clutter: videos; () for the still background of the other worlds.
        sha256: of the content of all files.
    """

    classes: tuple[str, ...]
    photos: dict[str, tuple[tuple[Path, ...], ...]]
    clutter: tuple[Path, ...]
    sha256: str


def read_gallery(folder: Path, clutter: tuple[Path, ...]) -> Gallery:
    """Find the photographs: PNG files with alpha in sub-folders at any depth; the uppermost one is the class.

    Raises:
        StageError: fewer than two classes have enough of them, or a video is not there.
    """
    if not folder.is_dir():
        raise StageError(f"data.photos: {folder} is not a folder{relative_to(folder)}")
    for path in clutter:
        if not path.is_file():
            raise StageError(f"data.clutter: {path}: no such file{relative_to(path)}")
    by_class: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        name, *inner = path.relative_to(folder).parts
        if inner and not {name, *inner} & {*DRAWN} and _has_alpha(path):
            by_class.setdefault(name, []).append(path)
    by_class = {name: paths for name, paths in by_class.items() if len(paths) >= LEAST}
    if len(by_class) < 2:
        found = ", ".join(by_class) or "none"
        what = f"expected at least two sub-folders with {LEAST} PNG files with alpha each, found {found}"
        raise StageError(f"data.photos: {folder}: {what}")
    content, photos = hashlib.sha256(), {"train": [], "test": []}
    for name, paths in by_class.items():
        content.update(name.encode())
        shuffled = sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())
        photos["test"].append(tuple(shuffled[::EVALUATED]))
        photos["train"].append(tuple(path for number, path in enumerate(shuffled) if number % EVALUATED))
    for path in (*(path for paths in by_class.values() for path in paths), *clutter):
        content.update(hashlib.sha256(path.read_bytes()).digest())
    split = {name: tuple(paths) for name, paths in photos.items()}
    return Gallery(tuple(by_class), split, clutter, content.hexdigest())


def _has_alpha(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.mode in ("RGBA", "LA") or "transparency" in picture.info
    except (UnidentifiedImageError, OSError):
        return False


def put_photo(patch: np.ndarray, path: Path) -> None:
    """Lay a photograph on a card, float32 (h, w, 4), as large as it goes with its own proportions."""
    with Image.open(path) as picture:
        photo = picture.convert("RGBA")
    photo = photo.crop(photo.getchannel("A").getbbox())
    room = np.array(patch.shape[1::-1]) * (1 - 2 * MARGIN)  # width, height
    # a card whose pixels are not square, for the two axes are scaled apart, shows a photograph that is not either
    square = np.array(photo.size) / max(photo.size)
    width, height = (max(1, round(side)) for side in room * square)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS), np.float32) / 255
    top, left = (patch.shape[0] - height) // 2, (patch.shape[1] - width) // 2
    ground, alpha = patch[top : top + height, left : left + width, :3], pixels[..., 3:]
    ground[:] = alpha * pixels[..., :3] + (1 - alpha) * ground


def moving(gallery: Gallery, split: str, count: int, size: tuple[int, int], rng: np.random.Generator) -> Iterator:
    """Yield `count` backgrounds, float32 (H, W, 3), half as colourful as a video of the gallery.

    Training takes the first two thirds of a video, evaluation the rest, which is repeated where it is too short.
    """
    path = gallery.clutter[rng.integers(len(gallery.clutter))]
    frames = _num_frames(path)
    border = max(1, frames - max(1, frames // EVALUATED))
    first, last = (border, frames) if split == "test" and border < frames else (0, border)
    start = first + int(rng.integers(max(1, last - first - count + 1)))
    numbers = [first + (start - first + number) % (last - first) for number in range(count)]
    found = {
        number: np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
        for number, frame in read_frames(path, sorted(set(numbers)), None, decoding="plain")
    }
    for number in numbers:
        frame = found[number].astype(np.float32) / 255
        yield (frame + frame.mean(2, keepdims=True)) / 2


@lru_cache
def _num_frames(path: Path) -> int:
    return probe(path).num_source_frames
