"""How to add an objective, a backbone, a metric, an annotation format: the edits that READMEs show, made in a copy."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cache
from tests.helpers.readme import PAGES, ROOT, blocks, text_of

CALL = """
import json, pathlib, sys
import pipeline
from pipeline.cli.main import main
assert pathlib.Path(pipeline.__file__).is_relative_to(pathlib.Path.cwd())
for arguments in json.loads(sys.argv[1]):
    main(arguments, standalone_mode=False)
"""


def edit(code: Path, text: str) -> None:
    """Do what a diff block of a README says: `-` becomes `+`; `+` alone goes to the end of the file named above it."""
    _, *parts = re.split(r"^# (\S+)\n", text, flags=re.MULTILINE)
    for name, lines in zip(parts[::2], parts[1::2], strict=True):
        file = code / name
        for old, new in re.findall(r"((?:^-.*\n)*)((?:^\+.*\n)+)", lines, re.MULTILINE):
            old, new = (re.sub("^.", "", part, flags=re.MULTILINE).rstrip("\n") for part in (old, new))
            before = file.read_text() if file.exists() else ""
            assert not old or before.count(old) == 1, f"{name} has this {before.count(old)} times, not once: {old}"
            file.write_text(before.replace(old, new) if old else f"{before}\n\n{new}\n".lstrip("\n"))


@pytest.fixture
def code(tmp_path) -> Path:
    """A copy of the code, to be changed."""
    for room in ("cache", "models", "pipeline"):
        shutil.copytree(ROOT / room, tmp_path / "code" / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "code"


def call(code: Path, run: Path, *commands: str) -> None:
    """Commands with the run's own config, as the copy of the code does them."""
    common = ["--config", str(run / "config.toml"), "--run", str(run)]
    words = []
    for command in commands:
        name, *rest = command.split()
        words.append([name, *(common if name != "show" else common[2:]), *rest])
    done = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps(words)],
        cwd=code,
        env=os.environ | {"PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(text_of(page), "diff")])
def test_every_edit_of_a_page_can_be_made(code, page):
    for text in blocks(text_of(page), "diff"):
        for room in ("cache", "models", "pipeline"):  # each starts from the code as it is
            shutil.copytree(ROOT / room, code / room, dirs_exist_ok=True)
        edit(code, text)
        for name in re.findall(r"^# (\S+)$", text, re.MULTILINE):
            compile((code / name).read_text(), name, "exec")


def test_an_objective(code, trained):
    edit(code, blocks(text_of("README.md"), "diff")[0])
    call(
        *(code, trained.path, 'saliency --set saliency.objectives=["margin"]', "crops --boxes margin"),
        *("train-fusion --fusion late --boxes margin", "evaluate", "show 83654 --boxes margin"),
    )
    run = cache.open(trained.path, maps="margin")
    assert run.saliency(0).max() > 0 and run.index.crop_done.all()
    assert "late-margin-source" in set(pd.read_csv(trained.path / "results.csv").experiment)
    assert (trained.path / "report/show/83654.png").exists()


def test_a_backbone(code, trained):
    edit(code, blocks(text_of("README.md"), "diff")[1])
    setting = "--set base.network=one_layer"
    call(code, trained.path, f"train-base {setting}", f"saliency {setting}", f"evaluate {setting}")
    run = cache.open(trained.path)
    assert run.logits(0).shape == (2, 3) and np.isfinite(run.logits(0)).all()
    assert run.stores().rows_done.gt(0).all()
    assert pd.read_csv(trained.path / "results.csv").experiment.tolist() == ["base"]


def test_a_metric(code, tiny_copy):
    edit(code, blocks(text_of("README.md"), "diff")[2])
    shutil.rmtree(tiny_copy.path / "results")
    call(code, tiny_copy.path, "evaluate")
    table = pd.read_csv(tiny_copy.path / "results.csv")
    assert len(table) == 3 and table.hit_rate.between(0, 1).all()


def test_an_annotation_format(code, tiny_copy, tmp_path):
    edit(code, blocks(text_of("pipeline/data/README.md"), "diff")[0])
    known = {}
    for row in pd.read_csv(tiny_copy.path / "labels.csv", keep_default_na=False, dtype=str).itertuples():
        video = known.setdefault(row.video_id, {"split": row.split, "actions": []})
        video["actions"] += [[float(row.start), float(row.end), row.label]] if row.label else []
    (tmp_path / "labels.json").write_text(json.dumps(known))
    shutil.copy(tiny_copy.path / "config.toml", tmp_path)
    before = (tiny_copy.path / "labels.csv").read_bytes()
    (tiny_copy.path / "labels.csv").unlink()
    call(
        *(code, tiny_copy.path),
        f'prepare --set data.format=json --set data.annotations=["{tmp_path / "labels.json"}"]',
    )
    assert (tiny_copy.path / "labels.csv").read_bytes() == before
