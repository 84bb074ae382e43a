"""Directories and paths that a worker process must see as the process that sends it work does."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cache.commit import write_file
from pipeline.errors import StageError


@dataclass(frozen=True)
class SharedDirectory:
    """A working directory, and paths that exist relative to it.

    A worker that sees another folder of the same name would fill the wrong caches; one that does not see the videos
    would record all of them as missing.
    """

    folder: Path
    paths: tuple[Path, ...]

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Change into the directory; StageError where this machine does not see it or one of the paths."""
        for path in (self.folder, *(self.folder / path for path in self.paths)):
            if not path.exists():
                name = os.uname().nodename
                raise StageError(f"{name}: this worker does not find {path}; workers need the same file system")
        with chdir(self.folder):
            yield


@contextmanager
def share_directory(run_dir: Path, videos: Path) -> Iterator[SharedDirectory]:
    """Yield the working directory with two paths to check: a new file in the run folder, and one of the videos.

    The new file proves that a worker sees this very run folder; it is deleted at the end.
    """
    mark = run_dir / f".site-{uuid.uuid4().hex}.tmp"
    entries = os.scandir(videos) if videos.is_dir() else iter(())
    first = next(entries, None)
    write_file(mark, b"")
    try:
        yield SharedDirectory(Path.cwd(), (mark, *([Path(first.path)] if first else [])))
    finally:
        mark.unlink(missing_ok=True)


def in_directory(function: Callable) -> Callable:
    """Bind a function to the present working directory; joblib's workers may have begun in another one."""
    return partial(_call_in, Path.cwd(), function)


def _call_in(folder: Path, function: Callable, *arguments, **named):
    with chdir(folder):
        return function(*arguments, **named)
