"""What a worker on another machine must find just as the process does that sends it work."""

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
class Site:
    """A working directory, and paths in it that are there.

    A worker that sees another folder of the same name would fill the wrong caches; one without the videos would
    record every one of them as missing.
    """

    folder: Path
    paths: tuple[Path, ...]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Work in the directory.

        Raises:
            StageError: this machine does not show what the other one does.
        """
        where = f"{os.uname().nodename}: this worker"
        if not self.folder.is_dir():
            raise StageError(f"{where} has no folder {self.folder}; workers need the same file system")
        with chdir(self.folder):
            for path in self.paths:
                if not path.exists():
                    raise StageError(
                        f"{where} does not find {path} in {self.folder}; workers need the same file system"
                    )
            yield


def here(function: Callable) -> Callable:
    """The function, to be called in this process's working directory by a worker that may have begun in another one:
    joblib keeps its workers, and paths in a config may be relative."""
    return partial(_inside, Path.cwd(), function)


def _inside(folder: Path, function: Callable, *arguments, **named):
    with chdir(folder):
        return function(*arguments, **named)


@contextmanager
def shown(run_dir: Path, videos: Path) -> Iterator[Site]:
    """A site with a mark of its own in the run folder, which goes in the end, and the first entry of the videos."""
    mark = run_dir / f".site-{uuid.uuid4().hex}.tmp"
    entries = os.scandir(videos) if videos.is_dir() else iter(())
    first = next(entries, None)
    write_file(mark, b"")
    try:
        yield Site(Path.cwd(), (mark, *([Path(first.path)] if first else [])))
    finally:
        mark.unlink(missing_ok=True)
