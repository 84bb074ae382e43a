"""`predict --gate`: a second look only in windows of which Base is unsure."""

import numpy as np
import pytest

from pipeline import focus
from pipeline.errors import StageError
from pipeline.predict import export
from pipeline.predict import run as command
from pipeline.predict.gate import look_above
from pipeline.predict.tables import Report
from pipeline.run.gate import entropies
from pipeline.run.stores import open_run
from tests.helpers.tiny_data import CLASSES
from tests.predict.test_predict import WindowRule, files_of

LATE = "late-entropy-source"


def test_only_unsure_windows_are_looked_at_twice(tiny_run, tmp_path):
    places, rule = files_of(tiny_run), WindowRule("as-evaluated")
    experiments = {name: focus.load(tiny_run.path, name, "cpu") for name in ("base", LATE)}
    tables = {name: [one.table for one in model.predict(places, rule)] for name, model in experiments.items()}
    entropy = np.sort(np.concatenate([one.entropy for one in tables["base"]]))
    above = float(entropy[len(entropy) // 2])
    gated = [one.table for one in experiments[LATE].predict(places, rule, look_above=above)]
    looked = 0
    for table, base, late in zip(gated, tables["base"], tables[LATE], strict=True):
        for row in range(len(table)):
            unsure = table.entropy[row] > above
            looked += unsure
            wanted = (late if unsure else base)[list(CLASSES)].iloc[row]
            np.testing.assert_allclose(table[list(CLASSES)].iloc[row], wanted, atol=1e-5)
            if unsure:
                assert table.iloc[row, 4:8].tolist() == late.iloc[row, 4:8].tolist()  # the box
            else:
                assert table.box_height[row] > late.box_height[row]  # all that the network sees
    assert 0 < looked < len(entropy)
    experiment = command.Experiment(tiny_run.path, LATE, device="cpu", look_above=above)
    arguments = (rule, Report(), command.Workers())
    outcome = command.run(experiment, places, tmp_path, *arguments)
    assert f"looked twice at {looked / len(entropy):.1%} of the windows" in outcome.summary
    with pytest.raises(StageError, match="holds other predictions: look_above"):
        command.run(command.Experiment(tiny_run.path, LATE, device="cpu"), places, tmp_path, *arguments)


def test_the_entropy_is_found_on_training_clips(tiny_run, tmp_path):
    training = np.concatenate(list(entropies(open_run(tiny_run.path, tiny_run.config), "train").values()))
    found = look_above(tiny_run.path, LATE, share=0.25)
    assert (training > found).mean() == 0.25 and found in training
    assert look_above(tiny_run.path, LATE, share=1) is None and look_above(tiny_run.path, LATE) is None
    assert look_above(tiny_run.path, LATE, entropy=0.7) == 0.7
    for wrong, message in (
        ({"share": 0.5, "entropy": 1.0}, "give one of them"),
        ({"entropy": float("nan")}, "expected a number of nats"),
        ({"experiment": "base", "share": 0.5}, "never looks twice"),
    ):
        with pytest.raises(StageError, match=message):
            look_above(tiny_run.path, **{"experiment": LATE} | wrong)
    export.run(tiny_run.path, tmp_path / "alone", LATE)
    with pytest.raises(StageError, match="no training clips"):
        look_above(tmp_path / "alone", share=0.5)
