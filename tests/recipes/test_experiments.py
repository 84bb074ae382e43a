"""The rows of Table 2, what they share, and that any interruption ends in the same table."""

import csv
import os
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from models import objectives
from pipeline.errors import StageError
from pipeline.recipes import experiments, table2
from pipeline.recipes.experiments import TABLE_2, Row, Work, plan, run_rows, seed_configs, stored_result
from pipeline.run.results import read_result
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from tests.helpers.tiny_data import caches, change, make_data, tiny_config, tree

NEXT = {"red thing": "green thing", "green thing": "blue thing", "blue thing": "red thing", "": ""}
# as in the paper: name -> boxes at training, boxes at evaluation, pixels, oracle, concatenation, late fusion
PAPER = {
    "base": (None, None, "input", False, 31.6, 31.6),
    "repeat": ("repeat", "repeat", "input", False, 31.7, 31.6),
    "random": ("random", "random", "source", False, 31.4, 30.6),
    "center": ("center", "center", "source", False, 31.6, 31.0),
    "ce/ce": ("cross_entropy", "cross_entropy", "source", True, 33.2, 32.9),
    "ce/ce-up": ("cross_entropy", "cross_entropy", "input", True, 33.2, 32.7),
    "ce/e": ("cross_entropy", "entropy", "source", False, 33.2, 33.0),
    "ce/e-up": ("cross_entropy", "entropy", "input", False, 33.1, 32.8),
    "e/e": ("entropy", "entropy", "source", False, 33.3, 33.1),
}


ONLY = ("repeat", "ce/ce", "ce/e", "e/e")  # what is really run here


COSTLY = (
    (train_base, "fit"),
    (objectives, "input_saliency"),
    (crops, "_cut_video"),
    (train_fusion, "fit"),
    (evaluate, "_evaluate"),
)


class Killed(BaseException):
    """Nobody catches it."""


def test_rows_are_the_papers():
    found = {}
    for row in TABLE_2:
        assert found.setdefault(row.name, {}).setdefault(row.fusion, row) is row
    assert list(found) == list(PAPER)
    for name, (train, test, pixels, oracle, concat, late) in PAPER.items():
        for fusion, number in (("concat", concat), ("late", late)):
            row = found[name][fusion]
            assert (row.boxes_train, row.boxes_eval, row.pixels, row.oracle) == (train, test, pixels, oracle)
            assert row.paper_map == number


def test_plan_of_the_whole_table():
    work = plan(TABLE_2)
    assert work.objectives == ("entropy", "cross_entropy")
    assert {pixels: set(names) for pixels, names in work.crops} == {
        "source": {"random", "center", "cross_entropy", "entropy"},
        "input": {"cross_entropy", "entropy"},
    }
    assert len(work.models) == len(set(work.models)) == 12  # 9 rows - base - 2 that share, in two fusions


def test_plan_of_few_rows():
    assert plan(row for row in TABLE_2 if row.boxes_train is None) == Work((), (), ())
    repeat = Row("x", "late", "repeat", "repeat", "input")
    assert plan([repeat]) == Work((), (("input", ()),), (("late", "repeat", "input"),))
    mixed = Row("y", "late", "cross_entropy", "entropy", "source")
    other = replace(mixed, name="z", boxes_eval="cross_entropy")
    assert plan([mixed, other]).models == (("late", "cross_entropy", "source"),)
    assert plan([mixed]).objectives == ("entropy", "cross_entropy")


def test_names_mean_nothing():
    assert plan(replace(row, name=f"{number}") for number, row in enumerate(TABLE_2)) == plan(TABLE_2)


@pytest.fixture(scope="module", autouse=True)
def no_fsync():
    """Durability costs most of a tiny run's time, and only a power cut could tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """Some rows of the table on two seeds, once, while calls are counted."""
    root = tmp_path_factory.mktemp("table")
    config = tiny_config(make_data(root / "data"), base={"epochs": 1}, fusion={"epochs": 1})
    calls = Counter()
    with pytest.MonkeyPatch.context() as patch:
        count_calls(patch, calls)
        table2.table2(config, root / "run", 2, ONLY)
    return config, root / "run", calls


def count_calls(patch, calls, kill_at=None):
    """Count the calls of every stage and of what costs time in it; end the process before one of the latter."""

    def counting(module, name, label):
        real = getattr(module, name)

        def counted(*args, **kwargs):
            calls[label] += 1
            if kill_at is not None and name != "run" and sum(calls[one] for one in COSTLY) == kill_at:
                raise Killed
            return real(*args, **kwargs)

        patch.setattr(module, name, counted)

    for stage in (prepare, train_base, saliency, crops, train_fusion):
        counting(stage, "run", stage.__name__.rpartition(".")[2])
    for module, name in COSTLY:
        counting(module, name, (module, name))


def test_stages_are_shared(table_run):
    _, _, calls = table_run
    assert calls["prepare"] == 1
    assert calls["train_base"] == calls["saliency"] == 2  # one a seed: both objectives in one pass
    # batches of 3 of 4 rows a unit (2 videos x 2), 2 training units and 2 evaluation units (2 and 1 videos), 2 seeds
    assert calls[objectives, "input_saliency"] == 2 * (2 + 2 + 2 + 1)
    assert calls["crops"] == 4  # once for source pixels, once for the context volumes of repeat
    assert calls["train_fusion"] == calls[train_fusion, "fit"] == 2 * 6  # ce/ce and ce/e share
    assert calls[evaluate, "_evaluate"] == 2 * 9  # the two rows of base are one result


def test_every_seed_has_its_own_base(table_run):
    config, run_dir, _ = table_run
    found = [stored_result(one, run_dir, TABLE_2[0]) for one in seed_configs(config, run_dir, 2)]
    weights = {read_result(path)[0]["weights"] for path in found}
    assert len(weights) == 2
    assert len(list((run_dir / "maps").iterdir())) == 2 * 2 * 2  # seeds, objectives, parts of the plan


def test_again_runs_nothing(table_run):
    config, run_dir, _ = table_run
    before, calls = tree(run_dir), Counter()
    with pytest.MonkeyPatch.context() as patch:
        count_calls(patch, calls)
        table2.table2(config, run_dir, 2, ONLY)
    assert not calls
    assert tree(run_dir) == before


def test_rows_that_were_not_run_say_so(table_run, tmp_path):
    config, run_dir, _ = table_run
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    table2.table2(config, tmp_path / "run", 2, only=("e/e",))  # shows the others that are there
    lines = read_table(tmp_path / "run")
    assert len(lines) == 18
    for line in lines:
        wanted = "2" if line["row"] in ("base", *ONLY) else "0"
        assert line["num_seeds"] == wanted
        assert (line["map_mean"] == "") == (wanted == "0")
    with pytest.raises(StageError, match=r"e/x.*rows are base, repeat"):
        table2.table2(config, tmp_path / "run", only=("e/x",))


def test_killed_and_repeated(table_run, tmp_path):
    """Killed again and again, at another place each time, a little further each time: the same table."""
    config, run_dir, _ = table_run
    target = tmp_path / "run"
    kills = 0
    while kills < 30:
        with pytest.MonkeyPatch.context() as patch:
            count_calls(patch, Counter(), kill_at=4)  # a unit takes 2 of them, so each attempt gets a little further
            try:
                table2.table2(config, target, 1, ONLY)
                break
            except Killed:
                kills += 1
    assert 5 < kills < 30
    table2.table2(config, run_dir, 1, ONLY)
    assert read_table(target) == read_table(run_dir)
    table2.table2(config, run_dir, 2, ONLY)


def test_shared_base(table_run, tmp_path):
    config, run_dir, _ = table_run
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("results", "report"))
    with pytest.MonkeyPatch.context() as patch:
        calls = Counter()
        count_calls(patch, calls)
        outcome = table2.table2(config, tmp_path / "run", 2, ("e/e",), share_base=True)
    assert calls[objectives, "input_saliency"] == 0  # the maps are those of the first seed
    assert calls[train_fusion, "fit"] == 2  # the second seed's
    base = next(line for line in read_table(tmp_path / "run") if line["row"] == "base")
    assert float(base["map_std"]) == 0
    assert "share one Base" in outcome.path.read_text()


def test_labels_are_not_seen(tmp_path):
    """Other labels, the same Base: everything made with entropy is the same to the byte, cross-entropy is not."""
    data = make_data(tmp_path / "data")
    config = tiny_config(data, saliency={"objectives": ("entropy",)})
    prepare.run(config, tmp_path / "a")
    weights = train_base.run(config, tmp_path / "a").path / "weights.pt"
    config = change(config, base={"init": str(weights), "epochs": 0})
    both = change(config, saliency={"objectives": ("entropy", "cross_entropy")})
    header, *lines = (data / "table.csv").read_text().splitlines()
    for name in ("a", "b"):
        run_dir = tmp_path / name
        prepare.run(config, run_dir)
        train_base.run(config, run_dir)
        saliency.run(config, run_dir)
        crops.run(config, run_dir, ("entropy",))
        # what was red is green, what was green blue, what was blue red, and all of it later
        turned = [line.replace("0,0.9", "0.2,0.5") for line in lines]
        turned = [",".join([*line.split(",")[:-1], NEXT[line.split(",")[-1]]]) for line in turned]
        (data / "table.csv").write_text("\n".join([header, *turned]) + "\n")
    assert (tmp_path / "a/labels.csv").read_bytes() != (tmp_path / "b/labels.csv").read_bytes()
    assert caches(tmp_path / "a") == caches(tmp_path / "b")
    assert len(caches(tmp_path / "a", "maps")) > 4 and len(caches(tmp_path / "a", "crops")) > 4
    with pytest.raises(StageError, match="--use-labels"):
        saliency.run(both, tmp_path / "a")
    for name in ("a", "b"):
        saliency.run(both, tmp_path / name, use_labels=True)
    assert caches(tmp_path / "a", "maps").keys() != caches(tmp_path / "b", "maps").keys()


def test_missing_stage_is_no_result(table_run, tmp_path):
    config, run_dir, _ = table_run
    experiments.ensure_prepared(config, tmp_path / "run")
    assert all(stored_result(config, tmp_path / "run", row) is None for row in TABLE_2)
    run = [row for row in TABLE_2 if row.name in ("base", *ONLY)]
    assert {row for row in TABLE_2 if stored_result(config, run_dir, row)} == set(run)
    assert run_rows(config, run_dir, run) == 0


def read_table(run_dir):
    with (run_dir / "report" / "table2.csv").open(newline="") as file:
        return list(csv.DictReader(file))
