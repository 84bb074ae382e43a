"""A run made by the code before the house opens, resumes, verifies and evaluates, and nothing is computed again.

The run is made here, by that code, from this checkout's history.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cache
from cache.table_files import unvouched
from cache.upkeep.verify import verify
from pipeline.config_file import load
from pipeline.report.scores import read_results
from pipeline.run.folder import open_folder
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion, train_online
from tests.helpers.tiny_data import tree

ROOT = Path(__file__).parents[1]
COMMIT = "eb84d71be33303cecdcccd2a1b5ff8bf8eb9ee42"  # the last one before the rooms
MAKE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
from tiny_data import change, make_data, run_all, tiny_config
from pipeline import train_online
from pipeline.config import to_toml
root = Path(sys.argv[1])
config = tiny_config(make_data(root / "data"))
run_all(config, root / "run")
train_online.run(config, root / "run", "late", looker="base")
(root / "tiny.toml").write_text(to_toml(config))
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """The folder of a run by the older code, and its config."""
    found = subprocess.run(["git", "-C", str(ROOT), "archive", COMMIT], capture_output=True)
    if found.returncode:
        pytest.skip("needs a checkout with its history")
    root = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(root / "code", filter="data")
    environment = {**os.environ, "PYTHONPATH": str(root / "code")}
    command = [sys.executable, "-c", MAKE, str(root)]
    subprocess.run(command, cwd=root / "code", env=environment, check=True, capture_output=True)
    return root


@pytest.fixture
def copy(older, tmp_path):
    shutil.copytree(older / "run", tmp_path / "run")
    return load(str(older / "tiny.toml"), (), tmp_path / "run"), tmp_path / "run"


STAGES = (
    prepare.run,
    train_base.run,
    saliency.run,
    lambda config, run: crops.run(config, run, ("entropy",)),
    lambda config, run: train_fusion.run(config, run, "late"),
    lambda config, run: train_fusion.run(config, run, "concat"),
    lambda config, run: train_online.run(config, run, "late"),
    evaluate.run,
)


def kept(run):
    """The files of a run but config.toml, which `prepare` writes with the settings that came later."""
    return {name: sha256 for name, sha256 in tree(run).items() if name != "run/config.toml"}


def test_every_stage_finds_its_work_done(copy, monkeypatch):
    config, run = copy
    before = kept(run)
    for owner, name in ((saliency, "saliency_maps"), (crops, "encode_volume"), (train_fusion, "fit")):
        monkeypatch.setattr(owner, name, None)  # a call would be a TypeError
    for owner in (train_base, train_online):
        monkeypatch.setattr(owner, "fit", None)
    assert list(verify(run)) == [] and {path.name for path in unvouched(run)} >= {"labels.csv", "results.csv"}
    for stage in STAGES[:-1]:
        stage(config, run)
    records = ("run/tables.json", "run/skipped.json")  # of tables, which the older code did not write
    after = kept(run)
    assert {name: sha256 for name, sha256 in after.items() if name not in records} == before
    assert load(str(run / "config.toml")) == config
    assert 'frame_interpolation = "centred"' in (run / "config.toml").read_text()
    assert list(verify(run)) == [] and set(records) < after.keys()
    before = after
    evaluate.run(config, run)  # of the model trained on the fly, which was not evaluated yet
    after = kept(run)
    results = {name: sha256 for name, sha256 in before.items() if name.startswith("run/results/")}
    assert len(results) == 9 and after.items() >= results.items()
    added = [name for name in after.keys() - before.keys() if "/results/late-entropy-source-online-base-" in name]
    assert len(added) == 3 and {*added, "run/results.json", "run/results/.lock"} == after.keys() - before.keys()


def test_it_opens_as_before(copy):
    _, run = copy
    opened = cache.open(run)
    assert opened.index.saliency_done.all() and opened.index.crop_done.all()
    assert opened.focus(0).shape == opened.context(0).shape and opened.saliency(0).sum() > 0
    assert pd.read_csv(run / "results.csv").experiment.tolist() == [
        "base",
        "concat-entropy-source",
        "late-entropy-source",
    ]


def test_what_is_lost_is_made_again_to_the_byte(copy):
    """Units of every store, to the byte; results under the same keys, by logits now instead of probabilities."""
    config, run = copy
    before, results = tree(run), read_results(run, open_folder(run, config).annotations)
    for record in sorted(run.glob("*/*/done/000000.json")):
        record.unlink()
    shutil.rmtree(run / "results")
    for stage in STAGES[2:4]:
        stage(config, run)
    evaluate.run(config, run)
    after = tree(run)
    assert any(name.startswith("run/results/late-entropy-source") for name in before)
    assert before.keys() <= after.keys()
    stored = {name: sha256 for name, sha256 in before.items() if not name.startswith("run/results")}
    assert {name: after[name] for name in stored} == stored
    now = {one.facts["key"]: one for one in read_results(run, open_folder(run, config).annotations)}
    for old in results:
        new = now[old.facts["key"]]
        assert old.facts.keys() < new.facts.keys() and new.stored_map == old.stored_map
        assert new.facts["scores"] == "logits" and "scores" not in old.facts
        np.testing.assert_allclose(new.probabilities, old.scores, rtol=1e-6)
