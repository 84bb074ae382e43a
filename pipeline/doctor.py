"""doctor: what stands in the way of a run, on this machine and in these data, each with what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config import Config

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Attributes:
        check: what was looked at, in a word.
        level: "problem" stops a stage or spoils its results, "note" is worth knowing.
        text: what was found, with the numbers. fix: what to do; "" where all is well.
    """

    check: str
    level: Level
    text: str
    fix: str = ""


def examine(config: Config, run_dir: Path, videos: int = 8) -> Iterator[Finding]:
    """All checks in turn; each finding as soon as it is known. Writes nothing that stays.

    Args:
        videos: so many of them are probed and compared between decoders.
    """
    from pipeline import doctor_data as data
    from pipeline import doctor_machine as machine

    checks: list[Callable[[], Iterator[Finding]]] = [
        machine.check_python,
        machine.check_libraries,
        lambda: machine.check_device(config),
        machine.check_decoder,
        lambda: machine.check_folder_of(run_dir),
        lambda: machine.check_shared_memory(config),
        lambda: machine.check_open_files(config),
        lambda: data.check_data(config, run_dir, videos),
    ]
    for check in checks:
        yield from check()
