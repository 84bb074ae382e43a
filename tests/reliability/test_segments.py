"""T27: records of units are gathered in segments, and whatever happens meanwhile, each unit is as it was or is named.

A product of many tiny units stands for a long run. What a process is killed at, and what fails, are the steps of
`fold`, `withdraw` and `unfold`; the power is cut before each of them, too.
"""

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheError, StorageError
from cache.plan_files import write_part
from cache.stores.open_product import open_product
from cache.stores.product_folder import ProductDir
from cache.stores.unit_records import UnitRecords
from cache.stores.zarr_store import ArraySpec, ZarrStore
from cache.upkeep.repair import repair
from cache.upkeep.sweep import sweep
from cache.upkeep.verify import verify
from tests.helpers.small_plan import part
from tests.reliability.test_damage import HARMS, flip
from tests.reliability.test_disks import fail_at
from tests.reliability.test_kills import die_at
from tests.reliability.test_power_cut import Disk
from tests.reliability.victims import copy_without, end_of, fork, hear, kill_after, kill_all, telling

UNITS, GONE = 12, 2  # and the unit that is withdrawn
PLAN = part(num_videos=UNITS, rows_per_video=1, videos_per_unit=1)
SKIPPED = {4: [{"video_id": "00004", "error": "VideoMissing", "detail": "gone"}]}
STEPS = ("write", "fsync", "replace", "link", "unlink", "mkdir")


def store_of(run: Path) -> ZarrStore:
    return ZarrStore.create(open_product(run, "maps", PLAN, {}), [ArraySpec("scale", (), "f4", "unit")])


def do_all(store: ZarrStore, units=range(UNITS), fold=0) -> None:
    """Do what is to do, and fold after each so many units."""
    for number, unit in enumerate(units, 1):
        with store.product.lock(unit, wait=True) as mine:
            if mine:
                store.write_unit(unit, {"scale": np.array([unit / 8], np.float32)}, SKIPPED.get(unit, ()))
        if fold and number % fold == 0:
            store.product.records.fold(fewest=1, most=3)


def facts(store: ZarrStore, beside: bool = False) -> dict:
    """What the product says of each done unit; beside others, one may be done after it was asked for what is left."""
    product = store.product
    left, done = product.todo(), product.done_units()
    assert {*left, *done} == set(range(UNITS)) and (beside or not {*left} & {*done})
    assert {**product.skips()}.items() <= SKIPPED.items()
    return {unit: (product.record(unit), store.read_unit(unit, "scale")) for unit in product.done_units()}


def data(run: Path) -> dict[str, str]:
    """SHA-256 of each file of data."""
    paths = [path for path in sorted(run.glob("maps/*/arrays.zarr/**/*")) if path.is_file() and path.suffix != ".tmp"]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def sound(run: Path) -> bool:
    """Nothing is damaged, and gc takes nothing away that a record names."""
    before = facts(store_of(run))
    damaged = [finding for finding in verify(run) if finding.kind == "damaged"]
    sweep(run)
    return not damaged and facts(store_of(run)) == before and sweep(run) == ([], 0)


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """A run of 12 units: 6 of them in two segments, 6 with records of their own; and what it says of them."""
    run = tmp_path_factory.mktemp("segments") / "run"
    write_part(run, PLAN)
    store = store_of(run)
    do_all(store, range(6))
    store.product.records.fold(fewest=1, most=3)
    do_all(store)
    assert len(store.product.records.segments()) == 2 and len(store.product.records.files()) == 6
    return run, facts(store)


def fold(run: Path) -> None:
    store_of(run).product.records.fold(fewest=1, most=3)


def withdraw(run: Path) -> None:
    assert store_of(run).product.withdraw(GONE)


def unfold(run: Path) -> None:
    records = store_of(run).product.records
    records.unfold(records.folder / records.segments()[0])


WORKS = {"fold": fold, "withdraw": withdraw, "unfold": unfold}


def as_it_was(run: Path, truth: dict, work) -> bool:
    """Each unit has its record, but the withdrawn one, which may have it; then all is finished."""
    now = facts(store_of(run))
    right = now == truth or (work is withdraw and now == {unit: one for unit, one in truth.items() if unit != GONE})
    right = right and sound(run)
    do_all(store_of(run))
    fold(run)
    store = store_of(run)
    return right and facts(store) == truth and store.product.records.files() == set() and sweep(run) == ([], 0)


@pytest.mark.parametrize("name", WORKS)
def test_killed_before_every_step(name, product, tmp_path, trials, count):
    """Every call of these is a point to die at: before it, hence also after the one before."""
    (whole, truth), points, right = product, 0, 0
    for call in STEPS:
        number, step, ended = 0, trials(1, 4), False
        while not ended:
            number += step
            run = copy_without(whole, tmp_path / "run")
            end = end_of(fork(lambda: die_at(call, number, lambda: WORKS[name](run))))  # noqa: B023
            assert end in (0, -signal.SIGKILL)
            ended = end == 0
            points += not ended
            right += not ended and as_it_was(run, truth, WORKS[name])
    count("T27", f"{name}: dead before every {', '.join(STEPS)}; finished: as it was", right, points)


@pytest.mark.parametrize("name", WORKS)
def test_the_nth_operation_fails(name, product, tmp_path, trials, count, monkeypatch):
    """A full disk, a quota, a broken one: StorageError, and nothing is lost."""
    (whole, truth), points, right = product, 0, 0
    for call in ("fsync", "replace", "link", "mkdir", "open"):
        number, step, through = 0, trials(1, 4), False
        while not through:
            number += step
            run = copy_without(whole, tmp_path / "run")
            with monkeypatch.context() as patch:
                fail_at(patch, call, number, (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)[number % 4], run)
                try:
                    WORKS[name](run)
                    through = True
                except StorageError:
                    points += 1
            right += not through and as_it_was(run, truth, WORKS[name])
    count("T27", f"{name}: the n-th fsync, replace, link, mkdir, open fails: StorageError; as it was", right, points)


def test_processes_that_commit_fold_and_withdraw_killed_at_random(product, tmp_path, trials, count):
    """Two that share their locks, and two that do not: no unit that was reported as done is lost."""
    number, right, kills = trials(100, 2), 0, 0
    _, truth = product
    for trial in range(number):
        run, chance = tmp_path / str(trial), random.Random(trial)
        write_part(run, PLAN)
        store_of(run)

        def work(share, run=run, apart=trial % 2):
            store = store_of(run)
            if apart:
                store.product.records.lock = store.product.path / "locks" / f"apart{share}"
            do_all(store, range(share, UNITS, 2), fold=3)

        call = (UnitRecords, "fold") if trial % 3 else (ProductDir, "commit")
        ends = kill_after(call, chance.randint(1, 3), [partial(work, 0), partial(work, 1)], chance.uniform(0, 0.02))
        kills += ends.count(-signal.SIGKILL)
        done = facts(store_of(run))
        same = {unit: truth[unit] for unit in done} == done and sound(run)
        do_all(store_of(run))
        right += same and facts(store_of(run)) == truth and sound(run)
        shutil.rmtree(run)
    assert kills >= number
    count("T27", f"2 processes that commit and fold, {kills} kills: every unit as it was", right, number)


def test_a_reader_beside_those_who_fold(product, tmp_path, trials, count):
    """What is done stays done for a reader, and reads as it was, while others commit and fold."""
    _, truth = product
    number, right = trials(20, 1), 0
    for trial in range(number):
        run = tmp_path / str(trial)
        write_part(run, PLAN)
        store_of(run)
        children = [fork(lambda share=share: do_all(store_of(run), range(share, UNITS, 2), fold=1)) for share in (0, 1)]  # noqa: B023
        seen, held = set(), True
        while len(seen) < UNITS and held:
            reader = store_of(run)
            now = facts(reader, beside=True)
            held = seen <= now.keys() and all(truth[unit] == one for unit, one in now.items())
            seen = set(now)
        assert [end_of(child) for child in children] == [0, 0]
        right += held
    count("T27", "a reader beside two that fold: what is done stays done, and reads as it was", right, number)


def test_segments_harmed(product, tmp_path, trials, count):
    """Flipped, cut, emptied, swapped: named, never read as another record; repaired, and as it was."""
    whole, truth = product
    run, chance = copy_without(whole, tmp_path / "start"), random.Random(9)
    fold(run)
    number, named, safe, same, kept = trials(400, 3), 0, 0, 0, 0
    harms = {name: harm for name, harm in HARMS.items() if name != "deleted"}
    for trial in range(number):
        harmed = copy_without(run, tmp_path / "run")
        path, neighbour = chance.sample(sorted(harmed.glob("maps/*/done/segments/*")), 2)
        flip(path, chance) if trial % 5 else harms[list(harms)[trial // 5 % len(harms)]](path, neighbour)
        found = [one.path for one in verify(harmed) if one.kind == "damaged"]
        named += path in found
        safe += _reads(harmed, truth)
        repair(harmed, list(verify(harmed)))
        kept += data(harmed) == data(run)
        assert not [one for one in verify(harmed) if one.kind == "damaged"]
        done = facts(store_of(harmed))
        assert {unit: truth[unit] for unit in done} == done and len(done) >= UNITS - 6
        do_all(store_of(harmed))
        same += facts(store_of(harmed)) == truth and data(harmed) == data(run)
    count("T27", "a harmed segment: named by verify", named, number)
    count("T27", "a harmed segment: nothing else is read than was committed", safe, number)
    count("T27", "a harmed segment repaired: no data is moved", kept, number)
    count("T27", "a harmed segment repaired and its units done again: as it was", same, number)


def _reads(run: Path, truth: dict) -> bool:
    """Whether each unit reads as it was, or an error is raised that names a segment."""
    for unit in range(UNITS):
        try:
            store = ZarrStore.open(open_product(run, "maps", PLAN, {}))
            if (store.product.record(unit), store.read_unit(unit, "scale")) != truth[unit]:
                return False
        except CacheError as error:
            if ".jsonl" not in str(error):
                return False
    return True


def test_damaged_data_of_folded_units(product, tmp_path, trials, count):
    """Named, moved aside with its record alone, and done again."""
    whole, truth = product
    run, number, right = copy_without(whole, tmp_path / "start"), trials(12, 1), 0
    fold(run)
    for unit in range(number):
        harmed = copy_without(run, tmp_path / "run")
        path = next(harmed.glob(f"maps/*/arrays.zarr/scale/c.{unit}"))
        path.write_bytes(b"harmed")
        moved = repair(harmed, list(verify(harmed)))
        store = store_of(harmed)
        right += store.product.todo() == [unit] and [one.name for one in moved] == [f"c.{unit}", f"{unit:06d}.json"]
        do_all(store)
        right += facts(store_of(harmed)) == truth and sound(harmed)
    count("T27", "damaged data of a folded unit: only this unit is done again", right, 2 * number)


@pytest.mark.full
@pytest.mark.parametrize("name", WORKS)
def test_power_cuts_before_every_step(name, product, tmp_path, count):
    (whole, truth), cuts, right = product, 0, 0
    for call in ("fsync", "replace", "link", "unlink"):
        point, ended = 0, False
        while not ended:
            point += 1
            disk = new_disk(tmp_path / "trial")
            with disk.mounted() as place:
                copy_without(whole, place / "run")
                subprocess.run(["sync", "-f", str(place)], check=True)
                victim = fork(lambda: die_at(call, point, lambda: WORKS[name](place / "run")))  # noqa: B023
                ended = end_of(victim) == 0
                disk.cut()
            with disk.mounted() as place:
                right, cuts = right + as_it_was(place / "run", truth, WORKS[name]), cuts + 1
    count("T27", f"{name}: the power cut before every fsync, rename, link, unlink; finished: as it was", right, cuts)


def new_disk(folder: Path) -> Disk:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return Disk(folder)


def test_power_cuts_while_units_are_done(product, tmp_path, trials, count):
    """Units that were reported as done are done after the cut, whatever was folded meanwhile."""
    _, truth = product
    number, units, kept, same = trials(16, 1), 0, 0, 0
    for trial in range(number):
        disk, chance, (ear, mouth) = new_disk(tmp_path / "trial"), random.Random(trial), os.pipe()
        with disk.mounted() as place:
            run = place / "run"
            write_part(run, PLAN)
            subprocess.run(["sync", "-f", str(place)], check=True)

            def victim(run=run, mouth=mouth):
                telling(
                    ProductDir, "commit", lambda: do_all(store_of(run), fold=3), mouth, lambda _, unit, *__: str(unit)
                )

            child = fork(victim)
            os.close(mouth)
            heard = hear(ear, chance.randint(3, UNITS - 2))
            time.sleep(chance.uniform(0, 0.05))
            disk.cut()
            kill_all([child])
            with open(ear, "rb") as rest:
                reported = set(map(int, (heard + rest.read()).split()))
        with disk.mounted() as place:
            done = facts(store_of(place / "run"))
            units, kept = units + len(reported), kept + len(reported & {n for n in done if done[n] == truth[n]})
            do_all(store_of(place / "run"))
            same += facts(store_of(place / "run")) == truth and sound(place / "run")
    count("T27", f"{number} power cuts: units reported as done, some of them folded, are whole", kept, units)
    count("T27", "after such a cut, finished: as it was", same, number)
