"""Which videos are meant: files, folders of them, folders of frames, lists; each with an id of its own."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.video.find import EXTENSIONS, is_plain_id
from pipeline.errors import StageError

LIST = ".txt"  # a path a line
FRAME = re.compile(r"-[0-9]{1,9}\.(jpg|jpeg)$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """A video to be predicted: a file, or a folder of frames."""

    video_id: str
    path: Path  # as it was given, or found in a folder that was given


def find_sources(places: list[str | Path]) -> list[Source]:
    """Return the videos of some places, in their order, those of a folder by name; the same path once.

    A place is a video, a folder of frames, a folder with videos at any depth, or a .txt file with a place a line,
    relative to it. The id is the name without its extension, as in annotations; other characters than these allow
    become "_", and a name that comes again gets a number.

    Raises:
        StageError: nothing is there, or a folder or a list has no video.
    """
    found: dict[Path, Path] = {}
    for place in places:
        for path in _videos(Path(place)):
            found.setdefault(path.resolve(), path)
    taken: set[str] = set()
    return [Source(_new_id(path, taken), path) for path in found.values()]


def _videos(place: Path, base: Path | None = None) -> list[Path]:
    if not place.exists():
        raise StageError(f"{place}: no such file or folder{f', named in {base}' if base else ''}")
    if place.is_dir():
        return _in_folder(place)
    if place.suffix.lower() != LIST or base:
        return [place]
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
    except ValueError as error:
        raise StageError(f"{place}: a list is UTF-8 text with one path a line: {error}") from error
    named = [path for line in lines if line for path in _videos(place.parent / line, place)]
    if not named:
        raise StageError(f"{place}: a list without videos; expected one path a line, relative to {place.parent}")
    return named


def _in_folder(folder: Path) -> list[Path]:
    """Return the videos below a folder, or the folder itself where its frames are a video."""
    found = []
    for place, folders, files in os.walk(folder):
        here, start = Path(place), f"{Path(place).resolve().name}-"
        is_video = any(name.startswith(start) and FRAME.search(name) for name in files)
        if is_video:
            found.append(here)
        folders[:] = [] if is_video else sorted(name for name in folders if not name.startswith("."))
        names = [name for name in files if name.lower().endswith(tuple(f".{one}" for one in EXTENSIONS))]
        found += [here / name for name in sorted(names) if not name.startswith(".")]
    if not found:
        raise StageError(f"{folder}: a folder without videos; looked for *.{', *.'.join(EXTENSIONS)} and frames")
    return found


def _new_id(path: Path, taken: set[str]) -> str:
    """Return an id that no video has yet, in any case of letters."""
    name = path.name if path.is_dir() else path.stem
    plain = name
    if not is_plain_id(name):
        plain = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]", "_", name)).strip("._-")[:100] or "video"
    number, found = 1, plain
    while found.lower() in taken:
        number += 1
        found = f"{plain}-{number}"
    taken.add(found.lower())
    return found
