"""T24: kill -9 of `predict` at random moments; the same command finishes it with the same bytes, nothing half-done."""

import random
import signal
from functools import partial

import pandas as pd

from pipeline.predict import run as command
from pipeline.predict.passes import WindowRule
from pipeline.predict.tables import Report
from pipeline.run.predictions import RECORD
from tests.helpers.tiny_data import tree
from tests.reliability.victims import kill_after

LONGEST = 0.3  # seconds from a video that is written to a kill: up to the tables


def predict(tiny_run, out):
    experiment = command.Experiment(tiny_run.path, "late-entropy-source", device="cpu")
    command.run(experiment, [tiny_run.data], out, WindowRule(), Report(), command.Workers())


def test_predict_killed_at_random(tiny_run, tmp_path, trials, count):
    predict(tiny_run, tmp_path / "whole")
    number, same, whole, kills = trials(50, 4), 0, 0, 0
    wanted = {name.partition("/")[2]: sha256 for name, sha256 in tree(tmp_path / "whole").items()}
    for trial in range(number):
        out, chance = tmp_path / str(trial), random.Random(trial)
        for _ in range(2):
            work = partial(predict, tiny_run, out)
            ends = kill_after((command, "write_video"), chance.randint(1, 7), [work], chance.uniform(0, LONGEST))
            assert set(ends) <= {0, -signal.SIGKILL}, ends
            kills += ends.count(-signal.SIGKILL)
        there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        pd.read_parquet(out / "windows.parquet")
        whole += RECORD not in there or {"videos.csv", "timeline.csv", "boxes.csv", "failed.csv"} <= there
        predict(tiny_run, out)
        found = {name.partition("/")[2]: sha256 for name, sha256 in tree(out).items()}
        same += found == wanted and not list(out.rglob(".*.tmp"))
    assert kills > number / 2
    count("T24", f"predict, {kills} kills, then finished: equal to the byte", same, number)
    count("T24", "what can be seen after a kill is whole", whole, number)
