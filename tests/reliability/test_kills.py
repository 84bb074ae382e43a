"""T1, T2, T5, T18: kill -9 at random and at every step, several processes at once; the same command finishes it.

Processes are killed after so many commits or steps of theirs and a random moment, never after so many seconds: a
loaded machine is slower, and sees the same.
"""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache.stores.product_folder import ProductDir
from cache.upkeep.sweep import sweep
from cache.upkeep.verify import product_paths, status, verify
from models.checkpoint import read_state
from pipeline.errors import StageError
from pipeline.stages import crops, saliency, train_base, train_fusion
from pipeline.training import loop
from tests.cli.test_commands import config_file
from tests.helpers.tiny_data import caches, tree
from tests.reliability.victims import (
    PRODUCTS,
    copy_without,
    end_of,
    fork,
    kill_after,
    kill_all,
    moments,
    num_descriptors,
)

ROOT = Path(__file__).parents[2]
MODELS = ("results*", "late*", "concat*")
SOON = 0.02  # seconds: the longest random moment from a commit to a kill
STAGES = {  # what runs, units that it commits, and what it has not written yet
    "saliency": (lambda config, run: saliency.run(config, run), 12, (*PRODUCTS, *MODELS)),
    "crops": (lambda config, run: crops.run(config, run, ("entropy",)), 8, ("context", "crops", *MODELS)),
}
TRAININGS = {
    "train-base": (lambda config, run: train_base.run(config, run), ("base-*", *PRODUCTS, *MODELS)),
    "late": (lambda config, run: train_fusion.run(config, run, "late"), MODELS),
    "concat": (lambda config, run: train_fusion.run(config, run, "concat"), MODELS),
}


def bad_records(run: Path) -> tuple[int, int]:
    """Of all committed units: how many, and how many findings that are damage."""
    damage = sum(finding.kind == "damaged" for finding in verify(run))
    units = sum(len(list((path / "done").glob("*.json"))) for path in product_paths(run))
    return units, damage


def clean(run: Path) -> bool:
    """gc leaves nothing that no record names, and every planned row is counted once."""
    sweep(run)
    counted = all(one.ok + one.skipped + one.todo == one.total for one in status(run))
    return counted and sweep(run) == ([], 0) and list(verify(run)) == []


def append_to_one_file(path: Path) -> None:
    """The plain baseline: one HDF5 file that grows."""
    frames = np.random.default_rng(0).integers(0, 255, (16, 28, 28, 3), np.uint8)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("crops", (0, *frames.shape[1:]), "u1", maxshape=(None, *frames.shape[1:]))
        while True:
            data.resize(len(data) + len(frames), axis=0)
            data[-len(frames) :] = frames


def usable(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return len(file["crops"][:]) > 0
    except (OSError, KeyError):
        return False


@pytest.fixture(scope="session")
def baseline_kills(tmp_path_factory):
    """ "n of N files usable" of the baseline, killed while it appends."""
    folder, ok, number = tmp_path_factory.mktemp("baseline"), 0, 30
    for trial, moment in enumerate(moments(1, number, 0.1)):
        victim = partial(append_to_one_file, folder / f"{trial}.h5")
        kill_after((h5py.Dataset, "resize"), 3, [victim], moment)
        ok += usable(folder / f"{trial}.h5")
    return f"one growing HDF5 file: {ok} of {number} usable after one kill"


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_killed_three_times_each(name, tiny_run, tmp_path, trials, count, baseline_kills):
    stage, commits, without = STAGES[name]
    number, same, neat, units, bad, kills = trials(100, 6), 0, 0, 0, 0, 0
    for trial in range(number):
        run = copy_without(tiny_run.path, tmp_path / "run", *without)
        chance = random.Random(trial)
        for _ in range(3):
            work = partial(stage, tiny_run.config, run)
            done = chance.randint(1, commits // 3)
            ends = kill_after((ProductDir, "commit"), done, [work, work], chance.uniform(0, SOON))
            assert set(ends) <= {0, -signal.SIGKILL}, ends
            kills += ends.count(-signal.SIGKILL)
            found = bad_records(run)
            units, bad = units + found[0], bad + found[1]
        before = num_descriptors()
        stage(tiny_run.config, run)
        neat += clean(run) and num_descriptors() <= before
        same += caches(run, *written(name)) == caches(tiny_run.path, *written(name))
    assert kills > number
    count("T1", f"{name}: 2 processes, {kills} kills, then finished: equal to the byte", same, number, baseline_kills)
    count("T1", f"{name}: committed units sound, looked at after every kill", units - bad, units)
    count("T18", f"{name}: nothing left over after gc, no descriptor leaked", neat, number)


def written(name: str) -> tuple[str, ...]:
    return ("base", "maps", "boxes") if name == "saliency" else ("context", "crops")


def test_the_real_command_line_killed(tiny_run, tmp_path, trials, count):
    """Both stages, each killed three times, from the shell."""
    number, same, kills, config = trials(10, 1), 0, 0, config_file(tiny_run)
    for trial in range(number):
        run = copy_without(tiny_run.path, tmp_path / "run", *PRODUCTS, *MODELS)
        for name in STAGES:
            command = [sys.executable, "-m", "pipeline", name, "--config", str(config), "--run", str(run)]
            for moment in moments(trial, 2, SOON):
                before = len(records(run))
                child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                while child.poll() is None and len(records(run)) <= before:
                    time.sleep(0.001)
                time.sleep(moment)
                child.kill()
                kills += child.wait() == -signal.SIGKILL
            assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
        same += caches(run) == caches(tiny_run.path) and clean(run)
    assert kills >= number
    count("T1", "the command line: both stages killed twice, then finished: equal to the byte", same, number)


def records(run: Path) -> list[Path]:
    """The commit records of a run."""
    return list(run.glob("*/*/done/[0-9]*.json"))


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_killed(name, tiny_run, tmp_path, trials, count):
    stage, without = TRAININGS[name]
    number, same, kills = trials(20, 2), 0, 0
    want = weights(tiny_run.path, name)
    for trial in range(number):
        run = copy_without(tiny_run.path, tmp_path / "run", *without)
        chance = random.Random(trial)
        for _ in range(3):
            work = partial(stage, tiny_run.config, run)
            (end,) = kill_after((loop, "to_device"), chance.randint(1, 2), [work], chance.uniform(0, SOON))
            assert end in (0, -signal.SIGKILL)
            kills += end != 0
        stage(tiny_run.config, run)
        got = weights(run, name)
        same += want.keys() == got.keys() and all((got[key] == want[key]).all() for key in want)
    assert kills > number / 2
    count("T1", f"{name}: {kills} kills, then finished: the same weights", same, number)


def weights(run: Path, name: str) -> dict:
    (path,) = run.glob(f"models/{name.removeprefix('train-')}-*/weights.pt")
    return read_state(path)


def test_a_second_training_ends_at_once_and_names_the_first(tiny_run, tmp_path, trials, count):
    number, refused = trials(20, 2), 0
    for _ in range(number):
        run = copy_without(tiny_run.path, tmp_path / "run", *MODELS)
        ready, hold = os.pipe()

        def first(hold=hold, run=run):
            real = train_fusion.fit

            def slow(network, data, *rest, **named):
                def stopped(*question):
                    os.write(hold, b"!")
                    signal.pause()  # until it is killed: who waits for it waits for ever
                    return data.load(*question)

                return real(network, data._replace(load=stopped), *rest, **named)

            train_fusion.fit = slow
            train_fusion.run(tiny_run.config, run, "late")

        child = fork(first)
        assert os.read(ready, 1) == b"!"
        try:
            train_fusion.run(tiny_run.config, run, "late")
        except StageError as error:
            refused += f"process {child} on " in str(error)
        assert kill_all([child]) == [-signal.SIGKILL]
        os.close(ready), os.close(hold)
    count("T5", "a second process on one training: refused at once, names the holder", refused, number)


CALLS = ("write", "fsync", "replace", "link")


@pytest.mark.parametrize("name", STAGES)
def test_killed_before_every_step_of_the_protocol(name, tiny_run, tmp_path, trials, count):
    """Every call of write, fsync, rename and link is a point to die at: before it, hence also after the one before."""
    _, _, without = STAGES[name]
    run_stage = {
        "saliency": lambda run: saliency.run(tiny_run.config, run, splits=("test",)),
        "crops": lambda run: crops.run(tiny_run.config, run, ("entropy",), splits=("test",)),
    }[name]
    whole = copy_without(tiny_run.path, tmp_path / "whole", *without)
    run_stage(whole)
    want, points, same = caches(whole, *written(name)), 0, 0
    for call in CALLS:
        step, number, ended = trials(1, 29), 0, False
        while not ended:
            number += step
            run = copy_without(tiny_run.path, tmp_path / "run", *without)
            child = fork(lambda: die_at(call, number, lambda: run_stage(run)))  # noqa: B023
            end = end_of(child)
            assert end in (0, -signal.SIGKILL)
            ended = end == 0
            if ended:
                continue
            _, bad = bad_records(run)
            run_stage(run)
            points += 1
            same += not bad and caches(run, *written(name)) == want and clean(run)
    count("T2", f"{name}: dead before every {', '.join(CALLS)}; finished: equal to the byte", same, points)


def die_at(call: str, number: int, work) -> None:
    """Replace a system call by one that kills its process the number-th time."""
    real, left = getattr(os, call), number

    def deadly(*arguments, **named):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(os, call, deadly)
    work()


@pytest.mark.parametrize("number", [2, 3, 4])
def test_several_processes_on_one_plan(number, tiny_run, tmp_path, trials, count):
    rounds, same = trials(20, 2), 0
    for trial in range(rounds):
        run = copy_without(tiny_run.path, tmp_path / "run", *PRODUCTS, *MODELS)
        chance = random.Random(trial)
        for stage, _, _ in STAGES.values():
            waits = [chance.uniform(0, 0.1) for _ in range(number)]
            children = [fork(lambda: time.sleep(wait) or stage(tiny_run.config, run)) for wait in waits]  # noqa: B023
            assert [end_of(child) for child in children] == [0] * number
        same += caches(run) == caches(tiny_run.path) and clean(run)
    baseline = "one growing HDF5 file: a second writer cannot open it"
    count("T5", f"{number} processes at once on one plan, both stages: equal to the byte", same, rounds, baseline)


def test_models_are_untouched_by_gc_and_verify(tiny_copy):
    before = tree(tiny_copy.path / "models")
    assert clean(tiny_copy.path) and tree(tiny_copy.path / "models") == before
