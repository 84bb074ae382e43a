"""Which files a command may write over, where the user names the place: those that it wrote itself, and empty ones."""

from collections.abc import Callable
from pathlib import Path

from pipeline.errors import StageError

HEAD = 1 << 16  # bytes of a file that are searched


def check_overwrite(path: Path, command: str, is_own: Callable[[Path], bool] = lambda path: False) -> None:
    """Raise StageError where a file is there that the command did not write; see `holds`."""
    if path.is_file() and path.stat().st_size and not is_own(path):
        raise StageError(f"{path} is there already, and {command} did not write it; use another --out")


def holds(mark: bytes) -> Callable[[Path], bool]:
    """Return a test for a file that has these bytes in its first 64 KiB."""

    def test(path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return mark in file.read(HEAD)

    return test
