"""Processes to be killed: forked from a parent that has imported torch, or started as a user would."""

import faulthandler
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

PRODUCTS = ("base", "maps", "boxes", "context", "crops")


def fork(work: Callable) -> int:
    """Start work() in a child; its process id. The child ends with 0, or 1 after an error."""
    child = os.fork()
    if child:
        return child
    code = 1
    faulthandler.disable()  # what dies here is meant to
    try:
        os.setpgid(0, 0)
        work()
        code = 0
    except BaseException as error:
        print(f"victim: {type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(code)


def end_of(child: int) -> int:
    """Wait for a child: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_all(children: list[int], after: float) -> list[int]:
    """Wait, SIGKILL every child, and say how each ended."""
    time.sleep(after)
    for child in children:
        os.kill(child, signal.SIGKILL)
    return [end_of(child) for child in children]


def copy_without(run: Path, folder: Path, *names: str) -> Path:
    """A fresh copy of a run without some of its folders and files."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(*names))
    return folder


def moments(seed: int, number: int, longest: float) -> list[float]:
    """Random moments to kill at, the same for the same seed."""
    chance = random.Random(seed)
    return [chance.uniform(0, longest) for _ in range(number)]


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
