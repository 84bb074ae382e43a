"""T3, T4: every n-th write fails, the disk is full, a quota is met: exit 5, nothing lost, resumed to the same bytes."""

import errno
import io
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache import folder_checks
from cache.errors import StorageError
from pipeline.cli.main import main
from pipeline.stages import crops, saliency
from tests.cli.test_commands import config_file
from tests.helpers.tiny_data import caches
from tests.reliability.test_kills import MODELS, STAGES, append_to_one_file, bad_records, clean, usable, written
from tests.reliability.victims import copy_without, end_of, fork, moments

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
CALLS = ("fsync", "replace", "link", "mkdir", "open")


def cli(name: str, config: Path, run: Path) -> int:
    """Exit code of the command in this very process."""
    try:
        main([name, "--config", str(config), "--run", str(run)], standalone_mode=False)
    except SystemExit as error:
        return error.code
    return 0


@pytest.mark.parametrize("name", STAGES)
def test_the_nth_operation_fails(name, tiny_run, tmp_path, trials, count, monkeypatch, capfd):
    """n = 1, 2, ... until a run gets through, with one errno after the other."""
    without, config = STAGES[name][2], config_file(tiny_run)
    points = named = kept = same = 0
    for call in CALLS:
        number, step, through = 0, trials(1, 41), False
        while not through:
            number += step
            run = copy_without(tiny_run.path, tmp_path / "run", *without)
            with monkeypatch.context() as patch:
                fail_at(patch, call, number, ERRNOS[number % 4], run)
                code = cli(name, config, run)
            through = code == 0
            if through:
                continue
            points += 1
            named += code == 5 and "error: StorageError: " in capfd.readouterr().err
            kept += not bad_records(run)[1]
            STAGES[name][0](tiny_run.config, run)
            same += clean(run) and caches(run, *written(name)) == caches(tiny_run.path, *written(name))
    what = f"{name}: the n-th {', '.join(CALLS)} fails"
    count("T3", f"{what}: exit 5 with a name", named, points)
    count("T3", f"{what}: no bad record", kept, points)
    count("T3", f"{what}: finished, equal to the byte", same, points)


def fail_at(patch, call: str, number: int, code: int, run: Path) -> None:
    """Let the number-th call fail. Of os.open and open() only those count that write inside the run."""
    left = number

    def failing(real, counts):
        def one(*arguments, **named):
            nonlocal left
            left -= counts(*arguments)
            if left == 0 and counts(*arguments):
                raise OSError(code, os.strerror(code), str(arguments[0]))
            return real(*arguments, **named)

        return one

    def writes(path, mode="r", *_):
        how = mode[0] in "wxa" if isinstance(mode, str) else mode & (os.O_WRONLY | os.O_RDWR)
        return str(path).startswith(str(run)) and bool(how)

    if call == "open":
        patch.setattr("builtins.open", failing(open, writes))
        patch.setattr(io, "open", failing(io.open, writes))
        patch.setattr(os, "open", failing(os.open, writes))
    else:
        patch.setattr(os, call, failing(getattr(os, call), lambda *_: True))


@pytest.mark.parametrize("name", STAGES)
def test_a_limit_of_file_size(name, tiny_run, tmp_path, trials, count):
    """RLIMIT_FSIZE, as a quota: writes beyond it fail half way."""
    without = STAGES[name][2]
    number, named, same = trials(20, 3), 0, 0
    largest = max(path.stat().st_size for product in written(name) for path in (tiny_run.path / product).rglob("*.*"))
    for limit in moments(3, number, min(largest, 2000)):
        run = copy_without(tiny_run.path, tmp_path / "run", *without)

        def limited(limit=int(limit), run=run):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                STAGES[name][0](tiny_run.config, run)
            except StorageError:
                os._exit(5)

        named += end_of(fork(limited)) == 5 and not bad_records(run)[1]
        STAGES[name][0](tiny_run.config, run)
        same += clean(run) and caches(run, *written(name)) == caches(tiny_run.path, *written(name))
    count("T4", f"{name}: file size limited: StorageError, no bad record", named, number)
    count("T4", f"{name}: file size limited, then lifted: equal to the byte", same, number)


@pytest.fixture
def small_disk(tmp_path):
    """A function: kilobytes to a mounted tmpfs of that size."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small tmpfs cannot be mounted here (it needs root)")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk(tiny_run, tmp_path, trials, count, small_disk, monkeypatch):
    """Both stages on a disk of random size; space returns; then the same command finishes."""
    monkeypatch.setattr(folder_checks, "SPARE_BYTES", -(1 << 40))  # so that it starts at all
    without = STAGES["saliency"][2]
    start = copy_without(tiny_run.path, tmp_path / "start", *without)
    used = sum(-(-path.stat().st_size // 4096) * 4 + 4 for path in start.rglob("*"))
    number, named, same, plain = trials(20, 3), 0, 0, 0
    for extra in moments(4, number, 300):
        disk = small_disk(used + 50 + int(extra))
        run = copy_without(start, disk / "run")
        code = 0
        try:
            saliency.run(tiny_run.config, run)
            crops.run(tiny_run.config, run, ("entropy",))
        except StorageError as error:
            code = 5 if "No space left" in str(error) else 1
        named += code == 5 and not bad_records(run)[1]
        end_of(fork(lambda: append_to_one_file(disk / "plain.h5")))  # noqa: B023
        plain += usable(disk / "plain.h5")
        (disk / "plain.h5").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        saliency.run(tiny_run.config, run)
        crops.run(tiny_run.config, run, ("entropy",))
        same += clean(run) and caches(run) == caches(tiny_run.path)
    baseline = f"one growing HDF5 file: {plain} of {number} usable"
    count("T4", "full disk: StorageError, no bad record", named, number, baseline)
    count("T4", "full disk, then space: equal to the byte", same, number)


def test_too_small_a_disk_is_refused_before_anything_starts(tiny_run, tmp_path, small_disk, count):
    disk = small_disk(16000)
    run = copy_without(tiny_run.path, disk / "run", *STAGES["saliency"][2])
    before = sorted(run.rglob("*.json"))
    code = cli("saliency", config_file(tiny_run), run)
    made = set(run.rglob("*")) - set(before)
    count("T4", "a disk that is too small: exit 5 before any unit", code == 5 and not list(run.glob("*/*/done/*")), 1)
    assert not any(path.suffix == ".h5" for path in made)


def test_too_few_inodes_are_refused(tiny_run, tmp_path, monkeypatch):
    with pytest.raises(StorageError, match=r"about 10 files will be written, .* inodes are free; not started"):
        real = os.statvfs(tmp_path)
        few = type("Few", (), {"f_files": 1000, "f_favail": 5})
        monkeypatch.setattr(os, "statvfs", lambda path: few if str(path) == str(tmp_path) else real)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 40}))
        folder_checks.check_space(tmp_path, 1, 10)


def test_a_read_only_folder_is_5(tiny_run, tmp_path, small_disk, count):
    disk = small_disk(64000)
    run = copy_without(tiny_run.path, disk / "run", *STAGES["saliency"][2])
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    codes = [cli(name, config_file(tiny_run), run) for name in ("saliency", "crops", "prepare")]
    codes.append(cli("train-fusion", config_file(tiny_run), run))
    count("T4", "a read-only folder: exit 5 (train-fusion: 4, it lacks crops)", codes[:3].count(5), 3)
    assert codes[3] in (4, 5)


@pytest.mark.parametrize(
    ("broken", "message"),
    [("replace", "does not replace"), ("link", "links onto"), ("flock", "grants a lock twice")],
)
def test_a_file_system_without_promises_is_refused(tmp_path, monkeypatch, broken, message):
    if broken == "replace":
        monkeypatch.setattr(folder_checks, "write_file", lambda path, data: path.exists() or path.write_bytes(data))
    elif broken == "link":
        monkeypatch.setattr(os, "link", lambda source, target: os.replace(source, target))
    else:
        monkeypatch.setattr(folder_checks.fcntl, "flock", lambda *_: None)
    with pytest.raises(StorageError, match=message):
        folder_checks.check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_baseline_can_be_usable(tmp_path):
    """The comparison is fair: closed in peace, the plain file opens."""
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["crops"] = np.zeros(3)
    assert usable(tmp_path / "plain.h5") and MODELS
