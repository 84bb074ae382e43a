"""The table over policies and rules: what each row changes, and that its cells are those of its own results."""

import csv
from dataclasses import replace

import pytest

from cache.layout import RESULTS
from cache.sealed import read_record
from pipeline.errors import StageError
from pipeline.recipes.table_policies import table_policies, variants
from tests.helpers.tiny_data import change


def test_rows_by_hand(tiny_run):
    config = change(tiny_run.config, saliency={"box_side": 16})
    found = variants(config, (8, 16, 24))
    assert {name: changed for name, (_, changed) in found.items() if changed} == {
        "entropy:8": {"box_side": 8},
        "entropy:24": {"box_side": 24},
        "entropy:top-k": {"box_rule": "top-k", "num_boxes": 2},
        "entropy:scale": {"box_rule": "scale", "box_sides": (8, 16, 24)},
        "entropy:nested": {"box_rule": "nested", "box_sides": (8, 16, 24)},
    }
    rows = {name: (row.boxes_train, row.boxes_eval, row.pixels) for name, (row, _) in found.items()}
    assert rows["base"][0] is None and rows["repeat"] == ("repeat", "repeat", "input")
    assert all(rows[name] == (name, name, "source") for name in ("entropy", "random", "center", "motion"))
    assert "own" not in rows
    own = variants(replace(config, saliency=replace(config.saliency, own_boxes="boxes.csv")), (8,))
    assert own["own:top-k"][1]["num_boxes"] == 2 and own["own"][0].boxes_eval == "own"


def test_of_a_tiny_run(tiny_copy, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    side = tiny_copy.config.saliency.box_side
    table_policies(tiny_copy.config, tiny_copy.path, 1, (side // 2, side), ("entropy", "entropy:scale", "center"))
    with (tiny_copy.path / "report" / "table-policies.csv").open(newline="") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["base", "entropy", "entropy:scale", "center"]
    stored = {one["experiment"]: one for one in map(read_record, tiny_copy.path.glob(RESULTS))}
    names = {"entropy:scale": "late-entropy-scale-source", "center": "late-center-source"}
    for row, experiment in names.items():
        value = 100 * stored[experiment]["map"]
        assert float(lines[row]["map_mean"]) == pytest.approx(value, abs=1e-4)
        difference = float(lines[row]["map_mean"]) - float(lines["entropy"]["map_mean"])
        assert float(lines[row]["delta_entropy"]) == pytest.approx(difference, abs=2e-4)
    assert lines["entropy"]["delta_entropy"] == lines["base"]["delta_base"] == ""
    assert float(lines["entropy:scale"]["gflop"]) == float(lines["entropy"]["gflop"]) > float(lines["center"]["gflop"])
    with pytest.raises(StageError, match=r"--only entropy:top: no such row; rows are base, repeat, entropy,"):
        table_policies(tiny_copy.config, tiny_copy.path, only=("entropy:top",))
