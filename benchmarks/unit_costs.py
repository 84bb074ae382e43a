"""Measure what a unit of stage 1 or 2 costs on a generated data set: seconds, operations on metadata, files, bytes.

Seconds are those between the records of the first and the last unit, without the start of the stage. Operations are
counted in runs with and without units to do; the difference is that of the units alone.
"""

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Config
from pipeline.config_file import load, to_toml
from pipeline.run.folder import open_folder
from pipeline.stages import prepare, train_base

ROOT = Path(__file__).parents[1]
RECORDS = {"saliency": "maps", "crops": "crops"}  # whose records say that a unit is done
SHARES = 4  # one share of so many is done apart
# Operations that a file server answers and that move no data; fstat, read and write are answered by the client's cache.
# The C library calls newfstatat for fstat, with an empty path.
TRACED = "%file,fsync,fdatasync,flock,getdents64,ftruncate"


@dataclass(frozen=True)
class UnitCost:
    """What a unit of one stage costs.

    Attributes:
        seconds: wall time of a unit, by number of processes that work together.
        calls: operations on metadata by system call.
        at_start: operations at the start of a process, per unit that is done already, its record in a segment.
        files: files and folders that stay.
        num_bytes: that are written and stay.
    """

    seconds: dict[int, float]
    calls: dict[str, float]
    at_start: float
    files: float
    num_bytes: float

    @property
    def operations(self) -> float:
        """All operations on metadata."""
        return sum(self.calls.values())

    def most_calls(self) -> str:
        """The system calls that are made most, in words."""
        return ", ".join(f"{count:.0f} {name}" for name, count in Counter(self.calls).most_common(4))


@dataclass(frozen=True)
class Costs:
    """What units of both stages cost, and the plan that all workers read.

    Attributes:
        units, videos_per_unit: of the generated run.
        plan_bytes, plan_memory: of a row of the plan, on the disk and in a process.
    """

    saliency: UnitCost
    crops: UnitCost
    units: int
    videos_per_unit: int
    plan_bytes: float
    plan_memory: float


def measure(folder: Path, videos: int, at_start: dict[str, float]) -> Costs:
    """Generate videos and a run in an empty folder, and run its stages 1 and 2 several times. Needs strace.

    Args:
        videos: for training; a quarter as many more for evaluation.
        at_start: of each stage, see `UnitCost` and `start_costs`.
    """
    config = _generate(folder, videos)
    parts = open_folder(folder / "start", config).parts
    units = sum(part.num_units for part in parts)
    apart = sum(len(range(0, part.num_units, SHARES)) for part in parts)  # unit u is of share u % SHARES
    stages = []
    for stage in RECORDS:
        print(f"{stage}: {units} units, with 1 and with 2 processes, and under strace", file=sys.stderr, flush=True)
        stages.append(_measure_stage(folder, stage, units - apart, at_start[stage]))
    rows = sum(part.num_rows for part in parts)
    plan = sum(path.stat().st_size for path in (folder / "start/plan").iterdir())
    memory = sum(int(part.rows.memory_usage(deep=True).sum()) for part in parts)
    return Costs(*stages, units, config.clips.videos_per_unit, plan / rows, memory / rows)


def _generate(folder: Path, videos: int) -> Config:
    """The miniature with fewer videos and two of them a unit, a trained Base; the run is in folder/start."""
    data = folder / "data"
    settings = {"clips.videos_per_unit": 2, "base.epochs": 1, "base.in_memory": "false"}
    settings |= {"data.train_videos": videos, "data.eval_videos": videos // 4, "data.videos": data}
    settings |= {"data.classes": data / "classes.txt", "data.annotations": [f"{data}/train.csv", f"{data}/test.csv"]}
    config = load("miniature", tuple(f"{name}={value}" for name, value in settings.items()))
    (folder / "config.toml").write_text(to_toml(config))
    prepare.run(config, folder / "start")
    train_base.run(config, folder / "start")
    return config


def _measure_stage(folder: Path, stage: str, done: int, at_start: float) -> UnitCost:
    """Measure a stage, and leave folder/start as it is after it.

    Args:
        done: number of units that are left when the first share is done.
    """
    seconds = {}
    for workers in (1, 2):
        run = _fresh(folder)
        _do(folder, stage, workers)
        seconds[workers] = seconds_between_records(run, RECORDS[stage], workers)
    run = _fresh(folder)
    _do(folder, stage, 1, f"1/{SHARES}")
    files, num_bytes = _stored(run)
    idle, busy = (_traced(folder, stage, share) for share in (f"1/{SHARES}", "1/1"))
    files_after, bytes_after = _stored(run)
    calls = {name: count / done for name, count in sorted((busy - idle).items())}
    shutil.rmtree(folder / "start")
    run.rename(folder / "start")
    return UnitCost(seconds, calls, at_start, (files_after - files) / done, (bytes_after - num_bytes) / done)


def _fresh(folder: Path) -> Path:
    """Copy folder/start, the run before the stage, to folder/run."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(folder / "start", run)
    return run


def _do(folder: Path, stage: str, workers: int, share: str = "1/1", before: tuple[str, ...] = ()) -> None:
    """Run a stage in folder/run, or a share of it; `before` are words that start the command line, such as strace."""
    options = ["--config", folder / "config.toml", "--run", folder / "run", "--workers", workers, "--part", share]
    command = [*before, sys.executable, "-m", "pipeline", stage, *options]
    found = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(found.stderr)


def seconds_between_records(run: Path, product: str, workers: int) -> float:
    """Wall seconds of a unit, counted from when every worker has done one."""
    times = sorted(path.stat().st_mtime for path in run.glob(f"{product}/*/done/*.json"))
    return (times[-1] - times[workers - 1]) / (len(times) - workers)


def _traced(folder: Path, stage: str, share: str) -> Counter:
    """Count a stage's operations on metadata below the folder, by system call."""
    log = folder.parent / f"{folder.name}.strace"
    strace = ("strace", "--follow-forks", "--seccomp-bpf", "--decode-fds=path", f"--trace={TRACED}", f"--output={log}")
    _do(folder, stage, 1, share, strace)
    found = count_calls(log.read_text(errors="replace"), str(folder))
    log.unlink()
    return found


def count_calls(log: str, below: str) -> Counter:
    """Count the system calls that name a path below a folder, in what strace wrote."""
    calls = re.findall(r"^\d+ +(\w+)\((.*)", log, re.MULTILINE)
    inside, fstat = re.compile(rf"{re.escape(below)}[/\">]"), re.compile(r'\d+<.*?>, ""')
    return Counter(name for name, arguments in calls if inside.search(arguments) and not fstat.match(arguments))


def _stored(run: Path) -> tuple[int, int]:
    """(files and folders, bytes) of a run."""
    found = [path for path in run.rglob("*") if "locks" not in path.parts]
    return len(found), sum(path.stat().st_size for path in found if path.is_file())
