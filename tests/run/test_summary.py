"""The summary of a data set, by hand."""

import pandas as pd

from pipeline.data.annotations import judge
from pipeline.run.summary import describe, describe_run, videos_by_class


def test_by_hand():
    videos = [("f", 1, "a", "train", 4), ("f", 2, "b", "train", 4), ("f", 3, "c", "test", 4), ("f", 4, "d", "test", 4)]
    annotations = judge(videos, [("a", 0, 0, 1), ("a", 1, 0, 1), ("c", 0, 0, 1), ("c", 3, 1, 2)], list("wxyz"))
    table = pd.DataFrame(
        {
            "video_id": ["a", "b", "c"],
            "duration_seconds": [1800.0, 3600.0, 5400.0],
            "height": [240, 480, 240],
            "width": [320, 640, 320],
            "source_fps": [25.0, 29.97, 25.0],
            "zoom_y": [2.0, 4.0, 2.0],
            "zoom_x": [1.5, 5.0, 3.0],
        }
    )
    assert describe(table, annotations) == {
        "videos": "4 (2 train, 2 test); of 3 of them: 3 hours, 1800 to 5400 (median 3600) s",
        "frames": "240 x 320 (2), 480 x 640 (1) high x wide; 25 to 29.97 (median 25) a second",
        "labels": "1 a video, 0 to 2; 2 videos have none",
        "classes": "4; 2 without a video in train (y, z); 2 without a video in test (x, y)",
        "source": "1.5 to 4 (median 2) times the resized frame, by height or width",
    }
    assert videos_by_class(annotations).tolist() == [2, 1, 0, 1]


def test_of_a_run(tiny_run):
    """As `prepare` prints it and the report shows it."""
    found = describe_run(tiny_run.path)
    assert found["videos"].startswith("7 (4 train, 3 test): 0.00")
    assert found["labels"] == "1.14 a video, 0 to 2; 1 videos have none"
    assert found["classes"] == "3"
