"""T19 to T22: hostile listings, tables that nobody may change unseen, plans that lost a part, files of others."""

import hashlib
import itertools
import os
import random
import time

import cache
from cache import tables
from cache.errors import CacheError, DamagedError
from cache.remote import file_cache
from cache.remote.mirror import mirror
from cache.upkeep.repair import repair
from cache.upkeep.sweep import sweep
from cache.upkeep.verify import verify
from pipeline.report.scores import read_metrics
from pipeline.stages import evaluate, prepare, train_base, train_fusion
from tests.cache.test_hostile_listing import NAMES, RECORDED, URL, Listed, entry, misrecord, store  # noqa: F401
from tests.helpers.tiny_data import caches, tree
from tests.reliability.test_hostile_files import mutate
from tests.reliability.victims import fork


def test_hostile_listings(store, count):  # noqa: F811
    refused, untouched, plan = 0, 0, Listed.folders["bucket/run/plan"]
    before = tree(store)
    cases = list(itertools.product(NAMES.values(), ("file", "directory")))
    for name, kind in cases:
        plan.append(entry(name, kind=kind))
        try:
            mirror(URL)
        except DamagedError as error:
            refused += repr(name) in str(error)
        plan.pop()
        untouched += {name: sha for name, sha in tree(store).items() if not name.endswith(".sync")} == before
    count("T19", "listings: refused by folder and name", refused, len(cases))
    count("T19", "listings: nothing written or deleted", untouched, len(cases))


def test_hostile_records(store, count):  # noqa: F811
    refused = 0
    for what in RECORDED:
        product = misrecord(what)
        try:
            product.fetch(0)
        except DamagedError as error:
            refused += "done/000000.json" in str(error)
    count("T19", "records: refused by name, before a file is asked for", refused, len(RECORDED))


def read_tables(run):
    """Everything that is read of the tables, or the error in its place."""
    opened, found = cache.open(run), []
    for read in (
        lambda: tables.classes(opened),
        lambda: tables.videos(opened),
        lambda: opened.skipped,
        lambda: opened.labels,
        lambda: list(read_metrics(run).values()),
    ):
        try:
            found.append(repr(read()))
        except CacheError:
            found.append(None)
    return found


def test_mutated_tables(tiny_copy, trials, count):
    run, config, chance = tiny_copy.path, tiny_copy.config, random.Random(20)
    stages = [prepare.run, train_base.run, train_fusion.run, lambda *a: train_fusion.run(*a, "concat"), evaluate.run]
    files = [*run.glob("*.csv"), *run.glob("*.txt"), *run.glob("models/*/metrics.csv")]
    truth, before, number = read_tables(run), tree(run), trials(64, 8)
    named = right = same = 0
    for trial in range(number):
        path = sorted(files)[trial % len(files)]
        good = path.read_bytes()
        while (bad := mutate(good, chance)) == good:
            pass
        path.write_bytes(bad)
        findings = list(verify(run))
        named += [finding.path for finding in findings] == [path]
        right += all(value in (None, want) for value, want in zip(read_tables(run), truth, strict=True))
        if trial % 2:
            moved = repair(run, findings)
            for one in moved:
                one.unlink()
        for stage in stages:
            stage(config, run)
        same += tree(run) == before
    count("T20", "tables: a mutation is found and named by verify", named, number)
    count("T20", "tables: no reader takes a mutated one", right, number)
    count("T20", "tables: their commands write them anew, equal to the byte", same, number)


def test_every_loss_within_the_plan(tiny_copy, count):
    run, before = tiny_copy.path, tree(tiny_copy.path)
    files = sorted(path for path in (run / "plan").iterdir() if path.suffix in (".json", ".parquet"))
    losses = [some for size in range(1, len(files) + 1) for some in itertools.combinations(files, size)]
    refused = same = 0
    for some, harm in itertools.product(losses, ("deleted", "emptied")):
        for path in some:
            path.unlink() if harm == "deleted" else path.write_bytes(b"")
        try:
            cache.open(run)
        except CacheError:
            refused += 1
        prepare.run(tiny_copy.config, run)
        same += tree(run) == before
    assert len(files) == 4
    count("T21", "plan: what is left is not taken for the plan", refused, 2 * len(losses))
    count("T21", "plan: made anew by prepare, equal to the byte", same, 2 * len(losses))


def test_gc_beside_a_first_prepare(tiny_run, tmp_path, trials, count):
    """gc again and again, from before the folder is there until the plan is."""
    number, same, kept_off = trials(50, 4), 0, 0
    for trial in range(number):
        run = tmp_path / f"{trial}/run"
        child = fork(lambda: prepare.run(tiny_run.config, run))  # noqa: B023
        done = 0
        while not done:
            try:
                sweep(run)
            except CacheError as error:
                kept_off += "in use" in str(error)
            done, status = os.waitpid(child, os.WNOHANG)
        same += os.waitstatus_to_exitcode(status) == 0 and caches(run, "plan") == caches(tiny_run.path, "plan")
    assert kept_off
    count("T21", f"gc beside a first prepare, kept off {kept_off} times: the plan is whole", same, number)


def odd_names(chance, folders):
    """Names such as others give, in folders that are ours."""
    names = ["notes.txt", "beach.jpg", "x.tmp", "list.json", "a.h5", "0.csv", ".hidden", "draft.partial", "README.md"]
    return {chance.choice(folders) / f"{chance.choice(['my', 'old', 'a-b'])} {one}" for one in names}


def test_files_of_others_in_a_run(tiny_copy, trials, count):
    run, chance = tiny_copy.path, random.Random(22)
    folders = [run, *(path for path in sorted(run.rglob("*")) if path.is_dir() and "arrays.zarr" not in path.parts)]
    kept = of = 0
    for _ in range(trials(50, 3)):
        theirs = odd_names(chance, folders)
        for path in theirs:
            path.write_bytes(b"mine")
        sweep(run)
        repair(run, list(verify(run)))
        prepare.run(tiny_copy.config, run)
        kept += sum(path.read_bytes() == b"mine" for path in theirs if path.exists())
        of += len(theirs)
        for path in theirs:
            path.unlink(missing_ok=True)
    count("T22", "run folder: files of others after gc, verify --repair and prepare", kept, of)


def test_files_of_others_in_the_file_cache(tmp_path, monkeypatch, trials, count):
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE", str(tmp_path))
    monkeypatch.setenv("FOCUSED_ATTENTION_CACHE_GB", "0")
    monkeypatch.setattr(file_cache, "_added", {})
    chance, kept, of, old = random.Random(23), 0, 0, time.time() - 10 * file_cache.STALE_SECONDS
    for trial in range(trials(200, 20)):
        ours = file_cache.keep(hashlib.sha256(b"%d" % trial).hexdigest(), b"%d" % trial)
        theirs = odd_names(chance, [ours.parent, ours.parents[1]]) | {ours.parents[1] / ours.name}
        for path in theirs:
            path.write_bytes(b"mine")
        for path in (*theirs, ours):
            os.utime(path, (old, old))
        file_cache.keep(hashlib.sha256(b"next %d" % trial).hexdigest(), b"next")
        assert not ours.exists()
        kept += sum(path.exists() for path in theirs)
        of += len(theirs)
    count("T22", "file cache: files of others after everything of ours was to go", kept, of)
