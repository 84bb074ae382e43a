"""Tables from fabricated results: every number worked out by hand, and what the files look like."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from cache.sealed import read_record, write_record
from pipeline.config import Config, Data
from pipeline.errors import StageError
from pipeline.metrics import Scored
from pipeline.recipes.experiments import TABLE_2, UPSCALED
from pipeline.recipes.study import Result, compare, read_scored
from pipeline.recipes.table2 import contrast_table, summary
from pipeline.recipes.tables import Table, write_tables
from pipeline.run.folder import open_folder

CHARADES = Config("x", data=Data("charades"))
HEADER = (
    "row,fusion,num_seeds,map_mean,map_std,delta_base,delta_low,delta_high,boxes_on_target,gflop,seconds,oracle,"
    "paper_map"
)


def result(value: float, resampled, on_target=None, missing: int = 0) -> Result:
    facts = {"map": value, "boxes_on_target": on_target, "num_missing": missing, "weights": "ab" * 32}
    return Result(facts, Scored(value, np.array(resampled, float)))


def results(**found) -> dict:
    """Results by name of the row; the same in both fusions."""
    return {row: found.get(row.name.replace("/", "_").replace("-", "_"), {}) for row in TABLE_2}


BASE = {0: result(0.5, [0.5, 0.5, 0.5]), 1: result(0.4, [0.4, 0.4, 0.4])}
OURS = {0: result(0.8, [0.6, 0.7, 0.8], 0.75), 1: result(0.6, [0.4, 0.5, 0.6], 0.25)}


def line_of(table: Table, name: str, fusion: str = "late") -> dict:
    (line,) = [line for line in table.lines if (line["row"], line["fusion"]) == (name, fusion)]
    return line


def test_summary_by_hand():
    table = summary(replace(CHARADES, data=Data("plain")), results(base=BASE, e_e=OURS, ce_ce=OURS), ())
    assert ",".join(table.lines[0]) == HEADER
    assert [(line["row"], line["fusion"]) for line in table.lines] == [(row.name, row.fusion) for row in TABLE_2]
    line = line_of(table, "e/e")
    assert (line["num_seeds"], line["oracle"], line["boxes_on_target"]) == (2, False, 0.5)
    assert (line["map_mean"], line["map_std"]) == pytest.approx((70, 10 * 2**0.5))
    # differences: 0.3 and 0.2; on the resamples 0.05, 0.15, 0.25 on average
    assert (line["delta_base"], line["delta_low"], line["delta_high"]) == pytest.approx((25, 5.5, 24.5))
    assert line["paper_map"] is None
    assert line_of(table, "ce/ce")["oracle"] is True
    base = line_of(table, "base", "concat")
    assert base["map_mean"] == pytest.approx(45) and base["delta_base"] is None and base["boxes_on_target"] is None
    assert line_of(table, "random")["num_seeds"] == 0 and line_of(table, "random")["map_mean"] is None


def test_one_seed_has_no_deviation():
    line = line_of(summary(CHARADES, results(base={0: BASE[0]}), ()), "base")
    assert (line["num_seeds"], line["map_mean"], line["map_std"]) == (1, 50, None)


@pytest.mark.parametrize(
    ("data", "missing", "shown"),
    [
        (Data("charades"), 0, True),
        (Data("charades"), 1, False),
        (Data("charades", eval_ids=("A",)), 0, False),
        (Data("charades", train_splits=("test",), eval_splits=("train",)), 0, False),
        (Data("miniature"), 0, False),
        (Data("plain"), 0, False),
    ],
)
def test_the_papers_column(data, missing, shown):
    found = results(base=BASE, e_e={0: result(0.5, [0.5] * 3, missing=missing)})
    table = summary(replace(CHARADES, data=data), found, ())
    assert [line["paper_map"] for line in table.lines] == [row.paper_map if shown else None for row in TABLE_2]
    assert bool(table.notes) == (missing > 0)


def test_contrasts_by_hand():
    table = contrast_table(results(base=BASE, e_e=OURS))
    assert ",".join(table.lines[0]) == "row_a,row_b,fusion,num_seeds,delta,low,high,seeds_won"
    found = {(line["row_a"], line["row_b"], line["fusion"]): line for line in table.lines}
    assert len(found) == len(table.lines) == 2 * 15
    for name in ("base", "repeat", "random", "center"):
        assert {("e/e", name, "late"), ("ce/e", name, "concat"), ("ce/ce", name, "late")} <= found.keys()
    assert {("ce/ce", "ce/ce-up", "late"), ("ce/e", "ce/e-up", "late"), ("e/e", "ce/ce", "concat")} <= found.keys()
    line = found["e/e", "base", "concat"]
    assert (line["num_seeds"], line["seeds_won"]) == (2, 2)
    assert (line["delta"], line["low"], line["high"]) == pytest.approx((25, 5.5, 24.5))
    absent = found["e/e", "random", "late"]
    assert (absent["num_seeds"], absent["delta"], absent["low"], absent["seeds_won"]) == (0, None, None, 0)


def test_single_labels_are_compared_by_top_1():
    def one(value, resampled):
        return Result({"map": 0.1, "top1": value, "boxes_on_target": None, "num_missing": 0}, Scored(value, resampled))

    config = replace(CHARADES, data=Data("charades", "single_label"))
    base = {0: one(0.5, np.array([0.5, 0.5])), 1: one(0.4, np.array([0.4, 0.4]))}
    ours = {0: one(0.8, np.array([0.6, 0.8])), 1: one(0.6, np.array([0.4, 0.6]))}
    table = summary(config, results(base=base, e_e=ours), ())
    assert ",".join(table.lines[0]) == HEADER.replace("map_mean,map_std", "top1_mean,top1_std")
    line = line_of(table, "e/e")
    assert (line["top1_mean"], line["delta_base"]) == pytest.approx((70, 25)) and line["paper_map"] is None
    assert line_of(table, "random")["top1_mean"] is None


def test_contrast_with_the_enlarged_input_where_it_was_run():
    found = results(base=BASE, e_e=OURS) | dict.fromkeys(UPSCALED, BASE)
    lines = contrast_table(found).lines
    assert len(lines) == 2 * 16
    assert [(line["row_a"], line["row_b"], line["delta"]) for line in lines[-2:]] == [
        ("e/e", "e/e-up", pytest.approx(25))
    ] * 2


def test_files(tmp_path):
    lines = [
        {"row": "a", "num_seeds": 1, "map_mean": 12.34567, "oracle": True},
        {"row": "<b>", "num_seeds": 0, "map_mean": None, "oracle": False},
    ]
    table = Table("T & U", lines, ("A note.",))
    outcome = write_tables(tmp_path / "new", {"t": table, "u": table}, 3)
    assert (outcome.path, outcome.summary, outcome.num_skipped) == (tmp_path / "new/report/t.md", "2 lines", 3)
    for name in ("t", "u"):
        text = (tmp_path / "new/report" / f"{name}.csv").read_text()
        assert text == "row,num_seeds,map_mean,oracle\na,1,12.3457,true\n<b>,0,,false\n"
    text = outcome.path.read_text()
    assert "| a | 1 | 12.35 | true |" in text and "| <b> | 0 | not run | false |" in text
    assert text.count("A note.") == text.count("## T & U") == 2
    page = outcome.path.with_suffix(".html").read_text()
    assert "<td>&lt;b&gt;</td>" in page and "<h2>T &amp; U</h2>" in page and "<p>A note.</p>" in page
    assert "http" not in page and "src=" not in page


def test_results_of_other_videos_are_refused(tiny_copy):
    annotations = open_folder(tiny_copy.path, tiny_copy.config).annotations
    paths = {}
    for path in (tiny_copy.path / "results").glob("*.json"):
        paths[json.loads(path.read_text())["fusion"]] = path
    base, late = (read_scored(paths[fusion], annotations) for fusion in ("none", "late"))
    assert late.facts["fusion"] == "late" and base.scored.resampled.shape == (2000,)
    assert compare({0: late}, {0: base}).num_seeds == 1
    scores = paths["late"].with_suffix(".scores.txt")
    turned = "".join(reversed(scores.read_text().splitlines(keepends=True)))
    write_record(paths["late"], read_record(paths["late"]), {scores.name: turned.encode()})
    with pytest.raises(StageError, match="different videos"):
        compare({0: read_scored(paths["late"], annotations)}, {0: base})


def test_the_whole_file_is_one_line_a_row(tmp_path):
    write_tables(tmp_path, {"table2": summary(CHARADES, results(base=BASE), ())}, 0)
    with (tmp_path / "report/table2.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert ",".join(lines[0]) == HEADER and len(lines) == 19
    assert lines[2] == ["base", "late", "2", "45.0000", "7.0711", "", "", "", "", "", "", "false", "31.6000"]
    assert lines[18] == ["e/e", "late", "0", "", "", "", "", "", "", "", "", "false", "33.1000"]
