"""Work for `run_units` that dies, refuses or tells its device. Workers import this file."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cache.stores import product_folder
from pipeline.errors import StageError
from pipeline.run.unit_commits import Unit, UnitWork
from pipeline.stages.crops import CropWork
from pipeline.stages.saliency import SaliencyWork


@dataclass(frozen=True)
class DiesOnce(UnitWork):
    """Work whose first process to stand between a unit's data and its record is killed.

    Attributes:
        marks: folder that gets a file <class> from the process that dies, which holds its number.
    """

    marks: Path = field(kw_only=True)

    def do(self, unit: Unit, wait: bool = False, crashed: str = "") -> int | None:
        def write_once(path, data):
            if path.parent.name == "done":
                with suppress(FileExistsError), open(self.marks / type(self).__name__, "x") as mark:  # of several, one
                    print(os.getpid(), file=mark, flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(path, data)

        real, product_folder.commit.write_once = product_folder.commit.write_once, write_once
        try:
            return super().do(unit, wait, crashed)
        finally:
            product_folder.commit.write_once = real


@dataclass(frozen=True)
class DyingSaliency(DiesOnce, SaliencyWork):
    """Stage 1 with a worker that dies."""


@dataclass(frozen=True)
class DyingCrops(DiesOnce, CropWork):
    """Stage 2 with a worker that dies."""


class AlwaysDies(UnitWork):
    """Unit 3 kills the process that takes it."""

    def do(self, unit: Unit, wait: bool = False, crashed: str = "") -> int | None:
        if crashed:
            (self.run_dir / f"{unit.number}-skipped-{os.getpid()}").touch()
            return 0
        with open(self.run_dir / f"{unit.number}-begun", "a") as file:
            file.write(f"{os.getpid()}\n")
        if unit.number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return 1


class Refuses(UnitWork):
    """Raises an error of ours."""

    def do(self, unit: Unit, wait: bool = False, crashed: str = "") -> int | None:
        raise StageError(f"unit {unit.number} refuses")


class TellsDevice(UnitWork):
    """Writes the device that it was given, and goes on when as many processes as there are devices have done so."""

    def do(self, unit: Unit, wait: bool = False, crashed: str = "") -> int | None:
        with open(self.run_dir / f"{os.getpid()}", "a") as file:
            file.write(f"{self.config.device}\n")
        while sum(path.name.isdecimal() for path in self.run_dir.iterdir()) < 3:
            time.sleep(0.01)
        return 1
