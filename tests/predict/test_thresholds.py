"""Thresholds by hand, and where they are kept."""

import numpy as np
import pytest
from click.testing import CliRunner

from cache.sealed import read_sealed
from pipeline import focus
from pipeline.cli.main import main
from pipeline.config_file import to_toml
from pipeline.predict.thresholds import threshold
from tests.helpers.tiny_data import CLASSES
from tests.predict.test_predict import WindowRule, predict

SCORES = np.array([0.2, 0.9, 0.6, 0.5, 0.8, 0.1])
POSITIVES = np.array([0, 1, 1, 0, 0, 1])  # by falling score: 1 0 1 0 0 1


def test_the_highest_f1():
    """F1 after 1, 2, .. videos: 2/4, 2/5, 4/6, 4/7, 4/8, 6/9: twice 2/3, and the higher one is between 0.6 and 0.5."""
    assert threshold(SCORES, POSITIVES) == pytest.approx(0.55)
    assert threshold(SCORES, 1 - POSITIVES) == pytest.approx(0.15)  # F1 6/8 with all but the last


def test_a_wanted_precision():
    """Precision: 1, 1/2, 2/3, 2/4, 2/5, 3/6."""
    assert threshold(SCORES, POSITIVES, 0.9) == pytest.approx(0.85)
    assert threshold(SCORES, POSITIVES, 0.6) == pytest.approx(0.55)
    assert threshold(SCORES, POSITIVES, 0.5) == pytest.approx(0.1)  # all: nothing is below
    assert threshold(SCORES, np.array([1, 0, 0, 0, 0, 0]), 0.5) == 1.0


def test_equal_scores_and_unseen_classes():
    assert threshold(np.array([0.7, 0.7, 0.3]), np.array([1, 0, 0])) == pytest.approx(0.5)
    assert threshold(SCORES, np.zeros(6)) == 0.5


def test_evaluate_stores_them_with_every_model(tiny_copy, tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_copy.config))
    common = ["evaluate", "--config", str(path), "--run", str(tiny_copy.path)]
    assert CliRunner().invoke(main, [*common, "--precision", "0.5"]).exit_code == 2
    before = predict(tiny_copy, [tiny_copy.data / "T0002.mp4"], tmp_path / "before", WindowRule())
    assert "0.5 for every class: none are stored with the model" in before.summary
    result = CliRunner().invoke(main, [*common, "--thresholds"])
    assert result.exit_code == 0, result.output
    stored = {one.parent.name: read_sealed(one) for one in tiny_copy.path.glob("models/*/thresholds.json")}
    assert len(stored) == 3
    for facts in stored.values():
        assert list(facts["thresholds"]) == sorted(CLASSES) and facts["videos"] == 4 and facts["rule"] == "highest F1"
    model = focus.load(tiny_copy.path, "late-entropy-source", device="cpu")
    (name,) = (name for name in stored if name.startswith("late"))
    found = next(model.predict(tiny_copy.data / "T0002.mp4"))
    assert found.thresholds.to_dict() == stored[name]["thresholds"] != dict.fromkeys(CLASSES, 0.5)
    # it is the F1 of the training videos' scores, clip by clip as evaluated
    scores = {one.video_id: one.scores for one in model.predict(tiny_copy.data, WindowRule("as-evaluated"))}
    train = {"07E49": (0,), "150E6": (1, 2), "00007": (2,), "NA": ()}
    for number, label in enumerate(CLASSES):
        column = np.array([scores[one][label] for one in train])
        positives = np.array([number in classes for classes in train.values()])
        assert found.thresholds[label] == pytest.approx(threshold(column, positives), abs=1e-6)
    after = predict(tiny_copy, [tiny_copy.data / "T0002.mp4"], tmp_path / "after", WindowRule())
    assert "stored with the model" in after.summary
