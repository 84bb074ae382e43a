"""Processes to be killed: forked from a parent that has imported torch, or started as a user would."""

import faulthandler
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
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


def telling(owner: object, name: str, work: Callable, pipe: int, say: Callable = lambda *_: "") -> None:
    """Do work(), and write a line to a pipe, what `say` makes of the arguments, after each call of a function."""
    real = getattr(owner, name)

    def told(*arguments, **named):
        result = real(*arguments, **named)
        os.write(pipe, f"{say(*arguments)}\n".encode())
        return result

    setattr(owner, name, told)
    work()


def hear(pipe: int, number: int) -> bytes:
    """Wait for so many lines of `telling`, or until all who could write them have ended; return what has come."""
    heard = b""
    while heard.count(b"\n") < number and (more := os.read(pipe, 4096)):
        heard += more
    return heard


def kill_after(call: tuple[object, str], number: int, works: list[Callable], moment: float) -> list[int]:
    """Start a process for each work; SIGKILL all a moment after they have together called a function so often.

    How long that takes is the machine's business; what was done by then is not. Return how each ended, 0 where it was
    done before.
    """
    ear, mouth = os.pipe()
    children = [fork(partial(telling, *call, work, mouth)) for work in works]
    os.close(mouth)
    hear(ear, number)
    ends = kill_all(children, moment)
    os.close(ear)
    return ends


def kill_all(children: list[int], after: float = 0) -> list[int]:
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
    """Random numbers, such as moments to kill at, the same for the same seed."""
    chance = random.Random(seed)
    return [chance.uniform(0, longest) for _ in range(number)]


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
