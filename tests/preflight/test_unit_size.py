"""plan: videos a unit on constructed numbers, by the bound that decides."""

import pytest

from pipeline.preflight.counts import Counts, PartSize
from pipeline.preflight.stage_costs import StageEstimate
from pipeline.preflight.unit_size import best_unit_size


def _best(videos=10_000, saliency=1.0, crops=10.0, processes=10, tasks=1, rates=None, rows=1, now=1):
    """Of so many videos in two parts, three quarters in the larger one; seconds of a worker for each video."""
    large = 3 * videos // 4
    parts = [PartSize("train", large, rows, 2), PartSize("test", videos - large, rows, 2)]
    stages = [
        StageEstimate(name, videos * rows, 1, {}, seconds * videos / processes, 0, processes)
        for name, seconds in (("prepare", 1e6), ("saliency", saliency), ("crops", crops))
    ]
    return best_unit_size(Counts(parts, {}, [], None, False), stages, tasks, rates or {}, now)


def test_folders_hold_four_thousand_names():
    """7,500 videos in one part: two a unit. Ten workers ask for 10 x 60 / 2 operations a second, of 5,000."""
    assert _best() == (2, 20.0, 500.0, pytest.approx(0.06), 3750)
    assert _best(videos=400_000, rows=25) == (10, 100.0, 4000.0, pytest.approx(0.012), 4000)  # parts of 40,000 videos


def test_workers_ask_for_half_of_what_is_served():
    """100 workers with 1 s a video ask for 100 x 60 operations a second, 1.2 times what there is."""
    assert _best(processes=100) == (3, 30.0, pytest.approx(100 / 3), pytest.approx(0.4), 2500)
    assert _best(processes=10, tasks=10) == _best(processes=100)
    assert _best(crops=0.2, saliency=9.0, processes=100).videos == 8  # 100 x 40 / 0.2 / 5,000 = 4 times


def test_a_kill_loses_ten_minutes_at_most():
    assert _best(saliency=299.0, crops=1.0, videos=40_000)[:2] == (2, 598.0)
    assert _best(saliency=601.0).videos == 1


def test_a_worker_gets_four_units():
    assert _best(processes=1000)[:3] == (2, 20.0, 5.0)  # 24 would ask for half
    assert _best(processes=5000).videos == 1


def test_what_is_set_stays_where_it_suits():
    """From two to 62: sixty-three would take longer than ten minutes, at 9.6 s a video."""
    found = [_best(crops=9.6, now=now).videos for now in (1, 2, 3, 61, 62, 63)]
    assert found == [2, 2, 3, 61, 62, 62]


def test_stated_rates_replace_measured_ones():
    """10,000 rows at 1 a second of a machine with ten workers: 10 s of a worker for each."""
    assert _best(saliency=1e-3, rates={"saliency": 1.0, "prepare": 1e9}) == _best(saliency=10.0)


def test_the_sentence():
    assert _best().sentence(2).startswith("clips.videos_per_unit = 2 suits: ")
    assert _best().sentence(7) == (
        "clips.videos_per_unit = 2 suits, not 7: 500 units a worker, of which a kill loses one, at most 20 s of work; "
        "the workers ask for 6% of 5,000 file operations a second; at most 3,750 names in a folder"
    )
