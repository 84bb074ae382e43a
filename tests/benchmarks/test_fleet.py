"""The simulated fleet: virtual time and its queue by hand, a killed worker, and what the fleet would notice."""

from contextlib import contextmanager

import pytest

pytest.importorskip("greenlet")

from benchmarks import fleet
from benchmarks.scale import Site
from benchmarks.virtual_time import Cluster
from cache.commit import locked, write_file
from cache.stores.product_folder import ProductDir
from pipeline.run.stores import open_run
from pipeline.run.unit_commits import Unit
from pipeline.run.units import Share


def test_the_queue_serves_one_operation_after_the_other(tmp_path):
    """Two a second; the first worker's second stat waits for the other one's first, which came before."""
    cluster, seen = Cluster(rate=2.0), []

    def work(name):
        for _ in range(2):
            (tmp_path / "file").exists()
            seen.append((name, cluster.now))
        cluster.pause(10)

    with cluster.serving(tmp_path):
        workers = [cluster.start(work, name) for name in "ab"]
        cluster.pause(100)
    assert seen == [("a", 0.5), ("b", 1.0), ("a", 1.5), ("b", 2.0)]
    assert [(one.waited, one.ended) for one in workers] == [(1.5, 11.5), (2.0, 12.0)]
    assert cluster.operations == {"stat": 4} and cluster.now == 100


def test_operations_are_counted_below_the_folder_alone(tmp_path):
    run, cluster = tmp_path / "run", Cluster(1.0)
    run.mkdir()
    with cluster.serving(run):
        (tmp_path / "runner").mkdir()
        list(run.iterdir())
        write_file(run / "file", b"1")
    listing = {"listdir": 4} if "listdir" in cluster.operations else {"scandir": 3}
    assert cluster.operations - cluster.operations.__class__(listing) == {"open": 2, "fsync": 2, "replace": 1}


def test_a_killed_worker_frees_its_lock_and_writes_nothing_more(tmp_path):
    cluster = Cluster(rate=1000.0)
    seen = []

    def work(name, seconds):
        with locked(tmp_path / "lock", wait=True):
            seen.append((name, round(cluster.now)))
            cluster.pause(seconds)
            write_file(tmp_path / name, b"")

    with cluster.serving(tmp_path):
        killed, _ = cluster.start(work, "first", 50), cluster.start(work, "second", 1)
        cluster.pause(20)
        cluster.kill(killed)
        cluster.pause(30)
    assert seen == [("first", 0), ("second", 20)] and killed.ended == 20
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "second"}


def test_the_share_of_waiting():
    """Alone, five operations at ten a second after each half second: half. Many workers that compute nothing: all."""
    assert fleet.share_waiting(1, operations=5, seconds=0.5, rate=10.0) == pytest.approx(0.5)
    assert fleet.share_waiting(2, operations=1, seconds=9.0, rate=1.0) == pytest.approx(0.1)  # they take turns
    assert fleet.share_waiting(100, operations=100, seconds=0.1, rate=1000.0) > 0.95


@pytest.fixture
def small(tmp_path):
    """Ten units of two videos: seven for training."""
    return fleet.Fleet(tmp_path, fleet.prepared(tmp_path, 14, 6, videos_per_unit=2), seconds=5.0, rate=300.0)


def test_nothing_is_lost_and_nothing_done_twice(small, monkeypatch):
    monkeypatch.setattr(fleet, "KILLED", 1.0)
    found = fleet.simulate(small, workers=4)
    assert (found.units, found.lost, found.twice) == (10, 0, 0) and found.again > 0, found
    assert 50 < found.a_unit < 80 and 0 < found.begun < 20 and 0.05 < found.waiting < 0.95


def test_a_unit_whose_logits_another_one_computes_is_left_to_it(small):
    """Its maps, too: who computes these alone runs the network a second time."""
    with small.serving():
        small.command(Share(10, 11))  # makes the stores
        stores, unit = open_run(small.run_dir, small.config), Unit("part-000-train", 0)
        with stores.base(stores.run.parts[0]).product.lock(0):
            assert fleet.StandIn(small.run_dir, small.config, fleet=small).do(unit) is None
        assert small.computed == 0
        small.command(Share(0, 10))
    assert small.computed == 2  # the first unit of either part


def test_it_would_notice(small, monkeypatch):
    """Where every lock is granted, two workers with the same share do the same units."""

    @contextmanager
    def granted(*_):
        yield True

    monkeypatch.setattr(ProductDir, "lock", granted)
    monkeypatch.setattr(fleet, "TWINS", 1.0)
    monkeypatch.setattr(fleet, "KILLED", 0.0)
    assert fleet.simulate(small, workers=1).twice >= 1
    stores = open_run(small.run_dir, small.config)
    train, test = stores.run.parts
    assert stores.boxes(train, "entropy").product.withdraw(6) and stores.base(test).product.withdraw(0)
    assert fleet.lost_units(open_run(small.run_dir, small.config)) == 2


def test_the_table(monkeypatch):
    """A part of 12,000 videos needs units of three for folders of 4,000 names; a unit of 500 s is of two at most."""
    monkeypatch.setattr(fleet, "WORKERS", (10,))
    site = Site(rows_per_video=22.0, videos_per_unit=2, metadata_rate=5000.0)
    slow, fast = list(fleet.table(site, [("slow", 500.0), ("fast", 1.0)], 12_000, now=100.0))[2:]
    assert slow == "| slow | 10 | 0.0% | 0.0% | 2 videos | 0.0% |"
    number, before, now, videos, larger = fast.split(" | ")[1:]
    assert (number, videos) == ("10", "3 videos")
    assert 0.5 < float(before.strip("%")) / 100 < 0.6  # ten in 2.1 s, not in 1 s
    assert 1.9 < float(now.strip("%")) < 2.6 and 1.2 < float(larger.strip("% |")) < 1.7  # 20 of 1,020, and of 1,520 ms
