"""The page about scale: its arithmetic worked by hand, the counting of system calls, seconds from records."""

import os

import pytest

from benchmarks.row_costs import RowCost
from benchmarks.scale import DataSet, Load, Site
from benchmarks.scaling import KEPT, Measured, page
from benchmarks.unit_costs import Costs, UnitCost, count_calls, seconds_between_records

LOOKED = UnitCost({1: 0.5, 2: 0.25}, {"openat": 60.0, "rename": 40.0}, at_start=3.0, files=7.0, num_bytes=1e5)
CUT = UnitCost({1: 0.2, 2: 0.1}, {"fsync": 50.0}, at_start=2.0, files=4.0, num_bytes=2e5)
COSTS = Costs(LOOKED, CUT, units=20, videos_per_unit=2, plan_bytes=100.0, plan_memory=200.0)
ROW = RowCost(saliency_seconds=8.0, saliency_gflop=300.0, crops_seconds=1.5)
SITE = Site(
    metadata_rate=1000.0,
    bandwidth=1e9,
    gpu_flops=15e12,
    worker_memory=1e9,
    video_bytes=5e6,
    map_bytes=1e5,
    frame_bytes=1e4,
    rows_per_video=5.0,
    videos_per_unit=2,
)  # ten rows a unit


def test_a_unit_of_real_size():
    """Ten rows: 10 x 300 / 15000 s on a GPU, 80 s on a core, 15 s of cutting; two videos, ten maps, 1,280 frames."""
    on_gpu, on_core, cut = SITE.works(COSTS, ROW)
    assert [on_gpu.seconds, on_core.seconds, cut.seconds] == pytest.approx([0.2, 80.0, 15.0])
    assert [on_gpu.operations, on_core.operations, cut.operations] == [100, 100, 50]
    assert [on_gpu.num_bytes, on_core.num_bytes, cut.num_bytes] == pytest.approx([11e6, 11e6, 10e6 + 1280e4])
    assert [on_gpu.at_start, cut.at_start] == [3, 2]


def test_what_saturates_first():
    """A GPU does five units a second: 500 operations, 55 MB. Two use up 1,000 operations, 18.2 a gigabyte a second."""
    on_gpu, on_core, cut = SITE.works(COSTS, ROW)
    one = SITE.load(on_gpu, 1)
    assert one == Load(pytest.approx(0.5), pytest.approx(0.055))
    assert (1 / one.metadata, 1 / one.num_bytes) == pytest.approx((2.0, 1000 / 55))
    assert SITE.load(on_gpu, 10).first == "metadata" and SITE.load(on_gpu, 1).first == "nothing"
    assert SITE.load(on_core, 1000) == Load(pytest.approx(1.25), pytest.approx(0.1375))
    assert SITE.load(cut, 1000).first == "metadata" and Load(1.5, 2.0).first == "bytes"


def test_how_long_it_takes():
    """Ten computing GPUs ask for five times the operations there are, so 10,000 units take 1,000 s, not 200."""
    on_gpu, on_core, _ = SITE.works(COSTS, ROW)
    data = DataSet("one", videos=19_999, rows=99_995)
    assert SITE.units(data) == 10_000
    assert SITE.hours(on_gpu, data, 10) == pytest.approx(1000 / 3600)
    assert SITE.hours(on_core, data, 100) == pytest.approx(10_000 * 80 / 100 / 3600)
    assert SITE.seconds_to_start(on_gpu, data, 10) == pytest.approx(10 * 3 * 10_000 / 1000)
    assert SITE.plan_rows_a_worker(COSTS) == 5_000_000


def test_data_sets_share_the_recipe():
    charades, kinetics, largest = SITE.data_sets(9848, 650_000, 100_000_000)
    assert (charades.rows, kinetics.rows, largest.rows, largest.videos) == (49_240, 3_250_000, 1e8, 2e7)
    assert largest.name == "100 million clips"


def test_the_page_says_what_was_worked_out():
    sets = [DataSet("one", 20_000, 100_000), DataSet("huge", 4e6, 2e7)]
    text = page(Measured(COSTS, ROW, "A machine"), SITE, sets)
    for line in (
        "| units a second, 2 processes | 4.00 | 10.00 |",
        "| operations on metadata a unit | 100 | 50 |",
        "| most of them | 60 openat, 40 rename | 50 fsync |",
        "| `--metadata-rate` | operations on metadata a second that the shared file system answers | 1,000 |",
        # 0.1 TB of videos, 0.01 of maps, 128 million frames of volumes; 10,000 units x 0.2, 80 and 15 s
        "| one | 20,000 | 100,000 | 10,000 | 110,000 | 0.10 | 0.01 | 0.13 | 0.6 | 222.2 | 41.7 |",
        "| saliency, a GPU each | 10 | 500% | 55% | metadata | 2 | 18 |",
        "| huge | 4.00 | 4 | 1,954 |",  # 2,000,000 units in segments of 1,024
    ):
        assert line in text.splitlines(), line
    assert "saliency, a GPU each: metadata, from 2 workers on; saliency, a core each: metadata, from 800" in text


def test_measurements_are_kept():
    found = Measured(COSTS, ROW, "A machine")
    assert KEPT.validate_json(KEPT.dump_json(found)) == found


def test_system_calls_below_a_folder_are_counted():
    log = """7 openat(AT_FDCWD</tmp>, "/data/run/plan", O_RDONLY) = 3</data/run/plan>
7 fsync(3</data/run/plan>) = 0
8 openat(AT_FDCWD</tmp>, "/data/runner/plan", O_RDONLY) = 3</data/runner/plan>
8 rename("/data/run/a", "/data/run/b" <unfinished ...>
7 newfstatat(AT_FDCWD</data>, "other", {}, 0) = 0
7 newfstatat(AT_FDCWD</data>, "/data/run/a", {}, 0) = 0
7 newfstatat(3</data/run/plan>, "", {st_mode=S_IFREG|0644}, AT_EMPTY_PATH) = 0
8 <... rename resumed>) = 0
8 +++ exited with 0 +++
"""
    assert count_calls(log, "/data/run") == {"openat": 1, "fsync": 1, "rename": 1, "newfstatat": 1}


def test_seconds_count_from_when_every_worker_has_done_a_unit(tmp_path):
    for unit, moment in enumerate((100, 103, 105, 107, 109)):
        path = tmp_path / f"maps/{unit % 2}/done/{unit}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (moment, moment))
    assert seconds_between_records(tmp_path, "maps", 1) == pytest.approx(9 / 4)
    assert seconds_between_records(tmp_path, "maps", 2) == pytest.approx(6 / 3)
