"""T14: the power fails. An ext4 of our own is shut down without its log being flushed, mounted again and looked at."""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache.commit import close_directories
from cache.errors import CacheError
from cache.plan_files import read_plan
from cache.stores.open_product import read_product
from cache.stores.product_folder import ProductDir
from pipeline.stages import crops, saliency
from tests.helpers.tiny_data import caches
from tests.reliability.test_kills import MODELS, PRODUCTS, clean
from tests.reliability.victims import copy_without, fork, hear, kill_all, telling

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN of <linux/ext4.h>
NO_LOG_FLUSH = 2
COMMITS = 20  # units of both stages


class Disk:
    """A loop-mounted ext4 image that can lose its power."""

    def __init__(self, folder: Path):
        self.image, self.place = folder / "image", folder / "disk"
        self.place.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(96 << 20)
        command = ["mkfs.ext4", "-q", "-F", str(self.image)]
        if shutil.which("mkfs.ext4") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no ext4 image can be made here (it needs mkfs.ext4)")

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        command = ["mount", "-o", "loop,commit=30", str(self.image), str(self.place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no ext4 image can be mounted here (it needs root and loop devices)")
        try:
            yield self.place
        finally:
            close_directories()  # a stage does so at its end
            subprocess.run(["umount", str(self.place)], check=True)

    def cut(self) -> None:
        """What is not on the disk by now never will be. Only ever done to our own loop device."""
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        ((device, kind),) = [(one[0], one[2]) for one in mounts if one[1] == str(self.place)]
        assert device.startswith("/dev/loop") and kind == "ext4"
        descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            assert os.fstat(descriptor).st_dev not in (os.stat("/").st_dev, os.stat(self.place.parent).st_dev)
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


def both_stages(config, run: Path) -> None:
    saliency.run(config, run)
    crops.run(config, run, ("entropy",))


def unit_of(folder: ProductDir, unit: int, *_) -> str:
    return f"{folder.product}/{folder.key} {unit}"


def trial(tiny_run, folder: Path, chance: random.Random, sync: bool) -> tuple[int, int, bool]:
    """One power cut, a random moment after a random number of commits.

    Returns:
        units reported as done, how many of them are not whole, and whether it could be finished.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    disk = Disk(folder)
    ear, mouth = os.pipe()

    def victim():
        if not sync:
            os.fsync = lambda descriptor: None
        telling(ProductDir, "commit", lambda: both_stages(tiny_run.config, disk.place / "run"), mouth, unit_of)

    with disk.mounted() as place:
        copy_without(tiny_run.path, place / "run", *PRODUCTS, *MODELS)
        subprocess.run(["sync", "-f", str(place)], check=True)
        child = fork(victim)
        os.close(mouth)
        heard = hear(ear, chance.randint(1, COMMITS - 2))
        time.sleep(chance.uniform(0, 0.05))
        disk.cut()
        kill_all([child])
        with open(ear, "rb") as rest:
            reported = [line.split() for line in (heard + rest.read()).decode().splitlines()]
    with disk.mounted() as place:
        run = place / "run"
        bad = sum(not whole(run, product, int(unit)) for product, unit in reported)
        if not sync:
            return len(reported), bad, False
        both_stages(tiny_run.config, run)
        return len(reported), bad, clean(run) and caches(run) == caches(tiny_run.path)


def whole(run: Path, product: str, unit: int) -> bool:
    """Whether the record of a unit is there, and every file it names as it was."""
    try:
        read_product(run / product, {part.name: part for part in read_plan(run)}).verify(unit)
    except CacheError:
        return False
    return True


def test_power_cuts(tiny_run, tmp_path, trials, count):
    """What was reported as done is there; the rest is done by the same command."""
    number, units, lost, same, plain_units, plain_lost = trials(16, 2), 0, 0, 0, 0, 0
    for seed in range(number):
        reported, bad, finished = trial(tiny_run, tmp_path / "trial", random.Random(seed), sync=True)
        units, lost, same = units + reported, lost + bad, same + finished
        reported, bad, _ = trial(tiny_run, tmp_path / "trial", random.Random(seed), sync=False)
        plain_units, plain_lost = plain_units + reported, plain_lost + bad
    assert plain_lost > 0, "without fsync nothing was lost: these cuts prove nothing"
    baseline = f"the same without fsync: {plain_lost} of {plain_units} reported units gone or damaged"
    count("T14", f"{number} power cuts: units reported as done are whole", units - lost, units, baseline)
    count("T14", "after a power cut, finished: equal to the byte", same, number)
