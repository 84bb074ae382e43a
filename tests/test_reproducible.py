"""Two runs from nothing, one after the other in another folder: the same bytes and the same curves."""

import json

import pandas as pd

from tests.helpers.tiny_data import CACHES, change, make_data, run_all, tiny_config, tree

SAME = ("videos.csv", "skipped.csv", "labels.csv", "classes.txt", "results.csv")


def test_two_runs_from_nothing(tiny_run, tmp_path):
    """Other folder, other worker count for prepare, videos written anew: every cached byte is equal."""
    make_data(tmp_path / "data")
    config = tiny_config(tmp_path / "data")
    run_all(config, tmp_path / "run")
    for product in CACHES:
        found = tree(tmp_path / "run" / product)
        assert found == tree(tiny_run.path / product) and len(found) >= 4
    for name in SAME:
        assert (tmp_path / "run" / name).read_bytes() == (tiny_run.path / name).read_bytes()
    folders = sorted(path.name for path in tiny_run.path.glob("models/*"))
    assert folders == sorted(path.name for path in (tmp_path / "run").glob("models/*")) and len(folders) == 3
    for name in folders:
        ours, theirs = tmp_path / "run" / "models" / name, tiny_run.path / "models" / name
        about = "base.json" if name.startswith("base") else "model.json"
        assert json.loads((ours / about).read_text()) == json.loads((theirs / about).read_text())  # weights' SHA-256
        curves = [
            pd.read_csv(folder / "metrics.csv").drop(columns=["seconds", "waiting_share"]) for folder in (ours, theirs)
        ]
        assert curves[0].equals(curves[1]) and len(curves[0]) >= 2


def test_another_seed_trains_another_base_on_the_same_plan(tiny_run, tmp_path):
    """`seed` moves what is trained, and nothing that is planned."""
    config = change(tiny_run.config, seed=1)
    run_all(config, tmp_path / "run")
    assert tree(tmp_path / "run" / "plan") == tree(tiny_run.path / "plan")
    assert tree(tmp_path / "run" / "context") == tree(tiny_run.path / "context")
    for product in ("base", "maps", "boxes", "crops"):
        ours, theirs = ({path.name for path in (run / product).iterdir()} for run in (tmp_path / "run", tiny_run.path))
        assert ours.isdisjoint(theirs)
