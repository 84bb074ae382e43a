"""Work for `run_units` that dies, refuses or tells its device. Workers import this file; it imports hardly anything."""

import importlib
import os
import signal
import time

from cache.stores import product_folder
from pipeline.errors import StageError


def dies_once(stage, marks, *arguments, **options):
    """`_do_unit` of a stage; the process that is the first to stand between a unit's data and its record is killed."""

    def write_once(path, data):
        if path.parent.name == "done" and not list(marks.glob(f"{stage}-*")):
            (marks / f"{stage}-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(path, data)

    real, product_folder.commit.write_once = product_folder.commit.write_once, write_once
    try:
        return importlib.import_module(stage)._do_unit(*arguments, **options)
    finally:
        product_folder.commit.write_once = real


def always_dies(run_dir, config, unit, wait=False, crashed=""):
    """Unit 3 kills whoever takes it."""
    if crashed:
        (run_dir / f"{unit}-skipped-{os.getpid()}").touch()
        return 0
    with open(run_dir / f"{unit}-begun", "a") as file:
        file.write(f"{os.getpid()}\n")
    if unit == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return 1


def refuses(run_dir, config, unit, wait=False, crashed=""):
    raise StageError(f"unit {unit} refuses")


def device_of(run_dir, config, unit, wait=False, crashed=""):
    with open(run_dir / f"{os.getpid()}", "a") as file:
        file.write(f"{config.device}\n")
    time.sleep(0.1)
    return 1
