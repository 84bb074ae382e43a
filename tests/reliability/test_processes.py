"""T13, T16, T17: readers in other processes, workers that are killed, exit codes, and calls that are banned."""

import hashlib
import multiprocessing
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

import cache
from cache.upkeep.verify import status
from pipeline.run.folder import open_folder
from pipeline.run.unit_commits import Unit, UnitWork
from pipeline.run.units import run_units
from pipeline.stages import crops, saliency
from pipeline.stages.crops import CropWork
from pipeline.stages.saliency import SaliencyWork
from tests.cli.test_commands import call, config_file
from tests.helpers.tiny_data import change

ROOT = Path(__file__).parents[2]


class Volumes(Dataset):
    """Focused and context volumes and logits of a run."""

    def __init__(self, run):
        self.run = run

    def __len__(self):
        return self.run.num_rows

    def __getitem__(self, row):
        return self.run.focus(row), self.run.context(row), self.run.logits(row)


def digest(loader) -> str:
    found = hashlib.sha256()
    for batch in loader:
        for values in batch:
            found.update(values.numpy().tobytes())
    return found.hexdigest()


def _in_process(run, queue) -> None:
    queue.put(digest(DataLoader(Volumes(run), batch_size=2)))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("workers", [0, 1, 4])
def test_readers_in_other_processes(method, workers, tiny_run, count):
    """The parent has read already; with no workers the whole loader runs in a process started that way."""
    run = cache.open(tiny_run.path)
    want = digest(DataLoader(Volumes(run), batch_size=2))
    context = multiprocessing.get_context(method)
    if workers:
        got = digest(DataLoader(Volumes(run), batch_size=2, num_workers=workers, multiprocessing_context=context))
    else:
        queue = context.SimpleQueue()
        child = context.Process(target=_in_process, args=(run, queue))
        child.start()
        got = queue.get()
        child.join()
    count("T13", f"DataLoader, {workers} workers, {method}: the same batches", got == want, 1)


@dataclass(frozen=True)
class Dies(UnitWork):
    """Work that dies by a signal on its victim, once or always."""

    victim: int
    signal: int
    times: int

    def do(self, unit, wait=False, crashed=""):
        marks, number = self.run_dir / "marks", unit.number
        if crashed:
            (marks / f"{number}-skipped").touch()
            return 0
        died = len(list(marks.glob(f"{number}-died-*")))
        if number == self.victim and died < self.times:
            (marks / f"{number}-died-{died}").touch()
            os.kill(os.getpid(), self.signal)
        (marks / f"{number}-done").touch()
        time.sleep(0.01)
        return 1


def test_workers_killed(tiny_run, tmp_path, trials, count):
    """By SIGKILL or SIGSEGV, once or always: the run ends, one retry, then a named skip."""
    number, right = trials(20, 2), 0
    for trial in range(number):
        folder = tmp_path / str(trial)
        (folder / "marks").mkdir(parents=True)
        kill, times, victim = (signal.SIGKILL, signal.SIGSEGV)[trial % 2], (9, 1)[(trial + trial // 2) % 2], trial % 10
        work = Dies(folder, change(tiny_run.config, workers=2), victim, kill, times)
        run_units(work, [Unit("part", number) for number in range(10)], 2, "test")
        names = {path.name for path in (folder / "marks").iterdir()}
        want = {f"{unit}-done" for unit in range(10) if unit != victim or times == 1}
        want |= {f"{victim}-died-{n}" for n in range(min(times, 2))} | ({f"{victim}-skipped"} if times > 1 else set())
        right += names == want
    count("T16", "a worker killed: the run ends, one retry, then a named skip", right, number)


def test_a_unit_that_kills_is_a_committed_skip(trained, count):
    """Both stages write the records of such a unit."""
    config, part = trained.config, open_folder(trained.path, trained.config).parts[0]
    SaliencyWork(trained.path, config).do(Unit(part.name, 0), crashed="killed twice")
    saliency.run(config, trained.path)
    work = CropWork(trained.path, config, ("entropy",), "source", True)
    work.do(Unit(part.name, 1), crashed="killed twice")
    crops.run(config, trained.path, ("entropy",))
    found = {(one.product, one.part): one for one in status(trained.path)}
    unit = len(part.unit_rows(0))
    base, context = found["base", part.name], found["context", part.name]
    assert base.skipped == unit and context.skipped == 2 * unit and base.todo == context.todo == 0
    run = cache.open(trained.path)
    detail = {
        skip["error"] for records in run.store("maps").directories[part.name].skips().values() for skip in records
    }
    sums = [one.ok + one.skipped + one.todo == one.total for one in found.values()]
    count("T17", "ok + skipped + todo = plan, after skips", sum(sums), len(sums))
    assert detail == {"DecoderCrashed"}


def test_exit_codes(own_videos, tmp_path, count):
    """One command for each code of the table in --help; 5 is in test_disks."""
    run = ("--run", own_videos.path)
    common = ("--config", config_file(own_videos), *run)
    (tmp_path / "wrong.toml").write_text("[data]\nformat = 3\n")
    got = [call("saliency", *common)[0], call("saliency", "--part", "3/2")[0]]
    (own_videos.data / "150E6.mp4").unlink()
    got.append(call("crops", *common)[0])
    got.append(call("crops", "--config", tmp_path / "wrong.toml", *run)[0])
    got.append(call("crops", *common, "--set", "clips.fps=5")[0])
    next(own_videos.path.glob("crops/*/volumes/*.h5")).write_bytes(b"")
    got.append(call("verify", *run)[0])
    want = [0, 2, 3, 4, 6, 7]
    count("T17", "exit codes 0, 2, 3, 4, 6, 7", sum(a == b for a, b in zip(got, want, strict=True)), len(want))


BANNED = (
    *(r"\bpickle\b", r"joblib\.load", r"allow_pickle\s*=\s*True", r"yaml\.load", r"(?<![\w.])eval\("),
    *(r"(?<![\w.])exec\(", r"shell\s*=\s*True", r"os\.system", r"weights_only\s*=\s*False", r"np\.load\("),
    *(r"read_pickle", r"urllib(?!\.parse\b)", r"requests\."),
)


def test_banned_calls(count):
    """In all code that is not a test."""
    files = [file for folder in ("cache", "models", "pipeline") for file in sorted((ROOT / folder).glob("**/*.py"))]
    found = {file.name: [one for one in BANNED if re.search(one, _code(file))] for file in files}
    assert not {name: one for name, one in found.items() if one}
    loads = [line for file in files for line in _code(file).splitlines() if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for line in loads)
    count("T17", "source files without a banned call", len(files), len(files))


def _code(file: Path) -> str:
    """Source without comments; docstrings of ours may say pickle in prose."""
    text = re.sub(r'""".*?"""', "", file.read_text(), flags=re.DOTALL)
    return "\n".join(line.split("  #")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))
