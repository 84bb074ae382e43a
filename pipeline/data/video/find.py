"""Find the file or folder of frames of a video id, and say which of the two a path is."""

import os
import re
import stat
import unicodedata
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from pipeline.config import Data
from pipeline.errors import UnsafePath, VideoAmbiguous, VideoMissing, VideoUnreadable

Kind = Literal["file", "frames"]  # of videos: a regular file, or a folder of frames
PLAIN_ID = (
    "1 to 128 letters, digits and characters of '._-#% ', among them a letter or digit, without '..', a first '.', a "
    "last '.', and blanks around it"
)

# what a spreadsheet makes of ids: 150E6 becomes 1.50E+08, mar-7 becomes 07.Mrz, -abc becomes #NAME?
MONTH = "(jan|ene|f[eé][bv]|m[aä]r|mrz|a[bpv]r|ma[iy]|jui?[nl]|ago|aug|ao[uû]|sep|o[ck]t|nov|d[eéi][cz])[a-z]{0,2}[.]?"
NUMBER = re.compile("[0-9]+([.,][0-9]+)?E[+]?[0-9]+|#[A-Z/0-9]+[?!]?", re.IGNORECASE)
DATE = re.compile(f"[0-9]{{1,2}}[-./ ]+{MONTH}([-./ ][0-9]{{2,4}})?|{MONTH}[-./ ]+[0-9]{{2,4}}", re.IGNORECASE)
DIGITS = re.compile("[0-9]{1,4}([-./])[0-9]{1,2}\\1[0-9]{1,4}( .*)?")

LONGEST = 230  # bytes of a file's name before its extension
EXTENSIONS = ("mp4", "mkv", "avi", "mov", "webm", "m4v", "mpg", "mpeg", "ts", "mts", "m2ts", "flv", "wmv", "3gp")
EXTENSIONS += ("gif",)  # the last, for beside another file of the id it is a preview


class LinkedFolder(type(Path())):
    """A folder of videos whose links may lead out of it."""


def video_folder(data: Data) -> Path:
    """Return the folder of videos, as a LinkedFolder where its links may lead out of it."""
    return LinkedFolder(data.videos) if data.follow_links else Path(data.videos)


def check_inside(path: Path, root: Path) -> Path:
    """Return where links lead from a path; UnsafePath where that is not in root, unless root is a LinkedFolder."""
    real = Path(os.path.realpath(path))  # unlike Path.resolve, it ends where links go in a circle
    if not real.is_relative_to(os.path.realpath(root)) and not isinstance(root, LinkedFolder):
        raise UnsafePath(f"{path} leads out of {root}, to {real}; data.follow_links = true follows such links")
    return real


def find_video(root: Path, video_id: str) -> Path:
    """Find the file `<root>/<id>.<extension>` or the folder `<root>/<id>/` of frames `<id>-000001.jpg`.

    Returns:
        where links lead from it, or the link itself where that is outside a LinkedFolder.
    Raises:
        UnsafePath: the id is not PLAIN_ID, or the path leaves root, which is no LinkedFolder.
        VideoMissing: none of the names exists, or what has the name is neither a file nor a folder.
        VideoAmbiguous: more than one does.
        VideoUnreadable: the file system does not say what it is, as of a link in a circle.
    """
    if not is_plain_id(video_id):
        raise UnsafePath(f"video id {video_id!r} is not {PLAIN_ID}")
    root = root.resolve()
    found = [path for path in _candidates(root, video_id) if path.is_symlink() or not path.is_dir()]
    found += [root / video_id] if (root / video_id).is_dir() else []
    if not found:
        looked = f"no {video_id}.<{'|'.join(EXTENSIONS)}> and no folder {video_id}/"
        webp = os.path.lexists(root / f"{video_id}.webp")
        hint = f"; {video_id}.webp is not read: make a GIF or a video of it" if webp else spreadsheet_hint(video_id)
        raise VideoMissing(f"{root}: {looked}{hint}")
    found = [path for path in found if path.suffix.lower() != ".gif"] or found
    if len(found) > 1:
        raise VideoAmbiguous(f"{root}: {video_id} is {', '.join(path.name for path in found)}; keep one of them")
    path = check_inside(found[0], root)
    if not os.path.lexists(path):
        raise VideoMissing(f"{found[0]} is a link to {path}, which does not exist")
    try:
        video_kind(path)
    except OSError as error:
        raise VideoUnreadable(f"{found[0]}: {error.strerror}") from error
    return path if path.is_relative_to(root) else found[0]


def _candidates(root: Path, video_id: str) -> list[Path]:
    """Return what has the id as its name and one of EXTENSIONS, in any case of letters; one file under two names once.

    What is listed counts: where a disk ignores case, every spelling of a name opens the one file that is listed.
    """
    names = []
    with suppress(OSError):  # a folder that is not there, or whose files may be opened but not listed
        names = _listed(root, os.stat(root).st_mtime_ns).get(video_id, [])
    if not names:  # also: added in this very moment, or with an id in another case, on such a disk
        spelled = (f"{video_id}.{case}" for extension in EXTENSIONS for case in (extension, extension.upper()))
        names = [name for name in spelled if os.path.lexists(root / name)]
    found: dict[tuple, Path] = {}
    for name in sorted(names, key=lambda name: EXTENSIONS.index(name.rpartition(".")[2].lower())):
        try:
            stats = os.stat(root / name)
            found.setdefault((stats.st_dev, stats.st_ino), root / name)
        except OSError:  # a link to nothing, or in a circle
            found[name,] = root / name
    return list(found.values())


@lru_cache(maxsize=4)
def _listed(root: Path, changed_ns: int) -> dict[str, list[str]]:
    """Return the names of videos by id, read again where the folder's time of change is another one."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(root):
        stem, _, extension = name.rpartition(".")
        if extension.lower() in EXTENSIONS:
            found.setdefault(stem, []).append(name)
    return found


def video_kind(path: Path) -> Kind:
    """Say whether a path is a regular file or a folder of frames; follow links. Raises as `look_at`."""
    return kind_of(look_at(path))


def kind_of(found: os.stat_result) -> Kind:
    """Say what `look_at` found."""
    return "file" if stat.S_ISREG(found.st_mode) else "frames"


def look_at(path: Path, root: Path | None = None) -> os.stat_result:
    """Return what the file system says of a video, in one question where no link needs to be followed. Open nothing.

    Args:
        root: the folder that it must lie in, see `check_inside`.
    Raises:
        UnsafePath: it does not lie in root.
        VideoMissing: nothing is there, or something else, such as a pipe, a socket or a device.
        OSError: the file system does not say.
    """
    plain = root is not None and path.parent == root
    try:
        found = os.lstat(path) if plain else None
        if found is None or stat.S_ISLNK(found.st_mode):
            if root is not None:
                check_inside(path, root)
            found = os.stat(path)
    except FileNotFoundError as error:
        raise VideoMissing(f"{path} does not exist") from error
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise VideoMissing(f"{path} is neither a regular file nor a folder of frames")
    return found


def is_plain_id(text: str) -> bool:
    """Say whether the text is PLAIN_ID, which is the name of one file and of no other place."""
    if not all(one.isalnum() or one in "._-#% " or unicodedata.category(one)[0] == "M" for one in text):
        return False
    fits = len(text) <= 128 and len(file_name(text)) <= LONGEST and text == text.strip()
    return fits and any(map(str.isalnum, text)) and ".." not in text and "." not in (text[0], text[-1])


def file_name(video_id: str) -> str:
    """Return an id as the name of a file in a run folder: what is not A-Z, a-z, 0-9, '.', '_' or '-' as %XX."""
    return quote(video_id, safe="")


def id_of(name: str) -> str:
    """Return the id of which `file_name` has made a name."""
    return unquote(name)


def spreadsheet_hint(text: str) -> str:
    """Say that a text looks like a number or date that a spreadsheet has made of an id; "" where it does not."""
    kind = "number" if NUMBER.fullmatch(text) else "date" if DATE.fullmatch(text) or DIGITS.fullmatch(text) else ""
    return kind and f"; a spreadsheet makes such a {kind} of an id, unless the column is imported as text"
