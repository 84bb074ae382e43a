"""A second look only where Base is unsure: the threshold, the curve, and what looks cost."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import cache
from cache.errors import DamagedError
from models.operations import count_operations
from pipeline.recipes import costs, table_gate
from pipeline.run.costs import COST_COLUMNS, cost_cells, gated_gflop, read_costs
from pipeline.run.gate import entropies, threshold_of
from pipeline.run.results import read_result
from pipeline.run.stores import open_run
from pipeline.stages import saliency
from pipeline.training.cost import measure
from tests.helpers.tiny_data import caches, change


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_threshold_by_hand():
    """Three of ten entropies are above that of 0.3; nothing above that of 0, everything above that of 1."""
    values = np.arange(10) / 10
    assert threshold_of(values[::-1], 0.3) == 0.6
    assert [(values > threshold_of(values, number / 10)).sum() for number in range(11)] == [*range(11)]
    with pytest.raises(ValueError, match=r"got 1\.5"):
        threshold_of(values, 1.5)


def test_entropies_are_those_of_the_scores(tiny_run):
    """Worked out from the stored logits: -sum p log p, which is larger the less sure Base is, never below 0."""
    found = entropies(open_run(tiny_run.path, tiny_run.config), "train")
    run = cache.open(tiny_run.path)
    for video_id, rows in run.index.query("split == 'train'").groupby("video_id").row:
        scores = [1 / (1 + np.exp(-run.logits(row).astype(float))) for row in rows]
        wanted = [-(p * np.log(p)).sum() for p in scores]
        np.testing.assert_allclose(found[video_id], wanted, rtol=1e-3)


def test_curve(tiny_copy, monkeypatch):
    """Its ends are Base and the model that always looks twice; in between, unsure clips have the latter's scores.

    Stage 1 computes nothing for it.
    """
    costs.run(tiny_copy.config, tiny_copy.path)
    for name in ("compute", "network"):
        monkeypatch.setattr(saliency.SaliencyWork, name, None)
    before = caches(tiny_copy.path, "base", "maps", "boxes")
    table_gate.table_gate(tiny_copy.config, tiny_copy.path, shares=(0.0, 0.5, 1.0))
    assert caches(tiny_copy.path, "base", "maps", "boxes") == before
    none, half, full = read(tiny_copy.path / "report" / "table-gate.csv")
    assert [(line["share_wanted"], line["share_looked"]) for line in (none, full)] == [
        ("0.0000", "0.0000"),
        ("100.0000", "100.0000"),
    ]
    facts = {}
    for path in (tiny_copy.path / "results").glob("*-source-*.json"):
        found, ids, _ = read_result(path)
        facts[found["experiment"]] = found
    base = next((tiny_copy.path / "results").glob("base-*.json"))
    assert float(none["map_mean"]) == pytest.approx(100 * json.loads(base.read_text())["map"], abs=1e-4)
    assert float(full["map_mean"]) == pytest.approx(100 * facts["late-entropy-source"]["map"], abs=1e-4)
    assert float(none["delta_base"]) == float(full["delta_full"]) == 0
    assert none["entropy_above"] == full["entropy_above"] == ""
    assert 0 < float(none["gflop"]) < float(half["gflop"])
    stores = open_run(tiny_copy.path, tiny_copy.config)
    entropy = entropies(stores, "test")
    assert entropy.keys() == set(ids) and {len(one) for one in entropy.values()} == {2}
    threshold = threshold_of(np.concatenate(list(entropies(stores, "train").values())), 0.5)
    assert float(half["entropy_above"]) == pytest.approx(threshold, abs=1e-4)
    above = np.concatenate(list(entropy.values())) > threshold
    assert float(half["share_looked"]) == pytest.approx(100 * above.mean())


def test_the_unsure_clips_are_looked_at(tiny_copy, monkeypatch):
    """Base says 0, the second look 1: a video scores 1 where one of its clips is above the threshold."""
    stores = open_run(tiny_copy.path, tiny_copy.config)
    ids = sorted(entropies(stores, "test"))
    entropy = {one: np.array([number, 0.1 * number]) for number, one in enumerate(ids)}
    monkeypatch.setattr(table_gate, "entropies", lambda stores, split: entropy)
    fake = lambda stores, model, boxes, wanted: ({one: np.full((2, 3), float(model is not None)) for one in ids}, {})  # noqa: E731
    monkeypatch.setattr(table_gate, "scores_by_video", fake)
    scored = {}
    monkeypatch.setattr(table_gate, "_scored", lambda config, stores, clips, facts: scored.update(clips) or facts)
    row = table_gate.replace(table_gate.ATTENTION, fusion="late")
    ((_, facts),) = table_gate._curve(tiny_copy.config, tiny_copy.path, row, (1 / 3,))
    assert facts == {"threshold": 0.2, "looked": pytest.approx(2 / 6)}
    assert {one: values[:, 0].tolist() for one, values in scored.items()} == {
        one: [float(number >= 1), 0.0] for number, one in enumerate(ids)
    }


def test_operations_by_hand():
    """Two for a multiplication and its addition: 5 x 7 places, 3 x 3 weights, 2 channels to 4."""
    layer, picture = nn.Conv2d(2, 4, 3), torch.zeros(1, 2, 7, 9)
    assert count_operations(lambda: layer(picture)) == 2 * 5 * 7 * 9 * 2 * 4
    with torch.inference_mode():
        assert count_operations(lambda: layer(picture)) == 2 * 5 * 7 * 9 * 2 * 4


def test_what_looks_cost(tiny_copy):
    config, run = tiny_copy.config, tiny_copy.path
    table = pd.read_csv(run / "results.csv")
    assert table[list(COST_COLUMNS)].isna().all(axis=None)  # nothing was measured
    costs.run(config, run)
    table = pd.read_csv(run / "results.csv").set_index("experiment")
    assert table[["gflop", "seconds", "seconds_decode", "seconds_base"]].gt(0).all(axis=None)
    assert table.seconds_second.notna().tolist() == [False, True, True]
    parts = [f"seconds_{part}" for part in ("decode", "base", "look", "second")]
    np.testing.assert_allclose(table.seconds, table[parts].sum(axis=1))
    before = (run / "costs.json").read_bytes()
    costs.run(config, run)
    assert (run / "costs.json").read_bytes() == before  # each is measured once
    found = {key.rpartition("-")[0]: one["gflop"] for key, one in read_costs(run).items()}
    assert {name: set(one) for name, one in found.items()} == {
        "base": {"base"},
        "late-entropy-source": {"base", "look", "second"},
        "concat-entropy-source": {"base", "look", "second"},
    }
    late, concat = found["late-entropy-source"], found["concat-entropy-source"]
    assert late["base"] == found["base"]["base"]
    assert late["base"] == pytest.approx(late["second"], rel=0.1)  # the same network, folded or not
    assert 1.9 < concat["second"] / late["second"] <= 2.1  # twice the frames
    assert late["look"] > 0.5 * late["base"]
    damaged = before.replace(b"CPU", b"GPU")
    (run / "costs.json").write_bytes(damaged)
    with pytest.raises(DamagedError, match=r"costs\.json.*delete it"):
        costs.run(config, run)


def test_what_is_not_read_costs_nothing(tiny_run):
    """No gradient for a centre box; concatenation reads no logits of Base, but its gradient has to go through it."""
    facts = [
        {"key": f"{fusion} {boxes}", "fusion": fusion, "boxes_eval": boxes}
        for fusion in ("late", "concat")
        for boxes in ("repeat", "center", "entropy")
    ]
    found = measure(open_run(tiny_run.path, tiny_run.config), facts)
    assert {key: set(one["gflop"]) for key, one in found.items()} == {
        "late repeat": {"base", "second"},
        "late center": {"base", "second"},
        "late entropy": {"base", "look", "second"},
        "concat repeat": {"second"},
        "concat center": {"second"},
        "concat entropy": {"base", "look", "second"},
    }
    two = change(tiny_run.config, saliency={"box_rule": "top-k", "num_boxes": 2})
    named = {"repeat": "repeat", "center": "center-top2", "entropy": "entropy-top2"}
    more = measure(open_run(tiny_run.path, two), [one | {"boxes_eval": named[one["boxes_eval"]]} for one in facts])
    assert {key: set(one["gflop"]) for key, one in more.items()} == {key: set(found[key]["gflop"]) for key in found}
    second = {key: more[key]["gflop"]["second"] / found[key]["gflop"]["second"] for key in found}
    assert second["late repeat"] == second["concat repeat"] == 1
    assert second["late entropy"] == 2  # looks at each box by itself
    assert second["concat center"] == pytest.approx(1.5, rel=0.1)  # three volumes in place of two


def test_cells_by_hand():
    cost = {"gflop": {"base": 4.0, "look": 6.0, "second": 5.0}, "seconds": {"base": 1.0, "look": 2.0}, "device": "x"}
    assert cost_cells(cost) == {
        **{"gflop": 15.0, "seconds": "", "device": "x"},
        **{"seconds_decode": "", "seconds_base": 1.0, "seconds_look": 2.0, "seconds_second": ""},
    }
    assert cost_cells(cost | {"seconds": {"decode": 3.0, "base": 1.0}})["seconds"] == 4
    assert cost_cells(None) == {}
    assert [gated_gflop(cost, share) for share in (0, 0.5, 1)] == [4, 4 + 0.5 * (6 + 5 + 4), 15]
    del cost["gflop"]["look"]
    assert gated_gflop(cost, 0.5) == 4 + 0.5 * 5


@pytest.mark.parametrize("follow", [True, False])
def test_decoding_is_timed_as_the_stages_decode(tiny_run, tmp_path, follow):
    """Through links out of the folder of videos where they may be followed; what cannot be read has no seconds."""
    for path in tiny_run.data.glob("*.mp4"):
        (tmp_path / path.name).symlink_to(path)
    config = change(tiny_run.config, data={"videos": str(tmp_path), "follow_links": follow})
    (cost,) = measure(open_run(tiny_run.path, config), [{"key": "a", "fusion": "none", "boxes_eval": "none"}]).values()
    assert ("decode" in cost["seconds"]) == follow
