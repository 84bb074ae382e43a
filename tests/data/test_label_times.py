"""Labels past the end of their videos, and their units by hand."""

import re

import numpy as np
import pandas as pd
import pytest

from pipeline.data.annotations import judge
from pipeline.data.label_times import past_the_end

LENGTHS = {"a": 30.0, "b": 60.0}
VIDEOS = pd.DataFrame({"video_id": [*LENGTHS], "duration_seconds": LENGTHS.values(), "source_fps": [25.0, 50.0]})


def labels(times, length=np.nan):
    """Annotations of (video, start, end)."""
    videos = [("t.csv", number, one, "train", length) for number, one in enumerate(LENGTHS)]
    return judge(videos, [(one, 0, start, end) for one, start, end in times], ["wave"])


SECONDS = [("a", 1.0, 2.5), ("a", 20.0, 29.0), ("b", 0.0, 31.0), ("b", 50.0, 62.0)]
RATES = {"a": 25, "b": 50}


@pytest.mark.parametrize(
    ("unit", "scale", "words"),
    [
        ("milliseconds", lambda one: 1000, "milliseconds, and times are in seconds: divide them by 1000"),
        ("hundredths of a second", lambda one: 100, "hundredths of a second, .* divide them by 100"),
        ("frames", RATES.get, "frames, and times are in seconds: divide them by the rate of their video"),
        ("", lambda one: 10**6, r"\)$"),
    ],
)
def test_units_are_guessed(unit, scale, words):
    """The label that begins at 0 is not past the end in any unit."""
    found = past_the_end(labels([(one, start * scale(one), end * scale(one)) for one, start, end in SECONDS]), VIDEOS)
    assert (found.count, found.total, found.unit) == (2 if unit == "frames" else 3, 4, unit)
    assert re.search(words, found.text)


def test_what_counts_as_past_the_end():
    """At the end itself; not what is cut there, what holds for the whole video, or a video that is not known."""
    times = [("a", 29.9, 99.0), ("a", 30.0, 31.0), ("b", 0.0, np.inf)]
    found = past_the_end(labels(times), VIDEOS)
    assert (found.count, found.total) == (1, 2)
    assert found.text == (
        "1 of 2 labels begin after the end of their video (a ends at 30 s, its label 'wave' is from 30 to 31)"
    )
    assert past_the_end(labels(times), VIDEOS[1:])[:2] == (0, 0)
    many = past_the_end(labels([("a", 1.0, 2.0)] * 95 + [("a", 3000.0, 4000.0)] * 5), VIDEOS)
    assert (many.count, many.total, many.unit) == (5, 100, "")


def test_lengths_in_the_table_count_too():
    """As in Charades, whose table has lost the times by then."""
    found = past_the_end(labels([("a", 3000.0, 4000.0), ("a", 1.0, 2.0), ("b", 5.0, 4.0)], length=30.0), VIDEOS)
    assert (found.count, found.total, found.unit, found.example) == (1, 2, "", "")
