"""Clip lengths, box sizes and ways of saliency, on a tiny run."""

import csv

import numpy as np
import pytest

from pipeline.data.plain_csv import read_plain
from pipeline.errors import StageError
from pipeline.recipes import compare_saliency, table1, table_box, table_cache
from pipeline.recipes.compare_saliency import KINDS
from pipeline.recipes.table_box import held_out
from tests.helpers.tiny_data import VIDEOS, change


@pytest.fixture
def quick(monkeypatch, tiny_copy):
    """One epoch; no waiting for the disk, which only a power cut could tell."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    return tiny_copy, change(tiny_copy.config, base={"epochs": 1}, fusion={"epochs": 1})


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_fifth_is_held_out():
    share = np.mean([held_out(f"video{number}") for number in range(3000)])
    assert share == pytest.approx(0.2, abs=0.03)
    assert [held_out(name) for name in ("A1", "07E49")] == [held_out(name) for name in ("A1", "07E49")]


def test_box_sizes_never_see_the_evaluation_videos(quick, monkeypatch):
    copy, config = quick
    monkeypatch.setattr(table_box, "held_out", lambda video_id: video_id == "150E6")
    table_box.table_box(config, copy.path, sides=(8, 20))
    lines = read(copy.path / "report" / "table-box.csv")
    assert [(line["box_side"], line["num_seeds"]) for line in lines] == [("8", "1"), ("20", "1")]
    folder = copy.path.with_name("run-box")
    videos = read_plain(folder / "labels.csv", folder / "classes.txt").videos
    assert {name: VIDEOS[name][0] for name in videos.video_id} == dict.fromkeys(videos.video_id, "train")
    assert videos.video_id[videos.split == "test"].tolist() == ["150E6"] and len(videos) == 4
    assert len(list((folder / "maps").iterdir())) == 2  # one objective, two parts: shared by all sizes
    assert len(list((folder / "crops").iterdir())) == 4
    assert "box as in the row" in (copy.path / "report" / "table-box.md").read_text()


def test_clip_lengths(quick):
    copy, config = quick
    table1.table1(config, copy.path, num_seeds=2, frames=(2, 4))
    lines = read(copy.path / "report" / "table1.csv")
    assert [(line["frames"], line["num_seeds"], line["paper_map"]) for line in lines] == [
        ("2", "2", ""),
        ("4", "2", ""),
    ]
    assert (copy.path.with_name("run-t2") / "base").exists() and not copy.path.with_name("run-t4").exists()
    assert not (copy.path.with_name("run-t2") / "maps").exists()


def test_compare(quick):
    copy, _ = quick
    compare_saliency.compare_saliency(copy.config, copy.path)
    lines = {line["method"]: line for line in read(copy.path / "report" / "compare-saliency.csv")}
    assert list(lines) == list(KINDS)
    for a in lines:
        assert float(lines[a][f"iou_{a}"]) == 1
        for b in lines:
            assert lines[a][f"iou_{b}"] == lines[b][f"iou_{a}"]
    for a, b in (("entropy", "grad_cam"), ("max_logit", "softmax_entropy")):
        assert float(lines[a][f"iou_{b}"]) < 1
    assert [name for name, line in lines.items() if line["oracle"] == "true"] == ["cross_entropy"]
    assert {name: line["num_seeds"] for name, line in lines.items()} == dict.fromkeys(lines, "0") | {"entropy": "1"}


def test_what_the_cache_costs(tiny_copy):
    """Every variant is trained and scored; the lossless cache with S = epochs is what the online mode is."""
    config = change(tiny_copy.config, saliency={"batch_size": 1})
    table_cache.table_cache(config, tiny_copy.path, every=2)
    lines = read(tiny_copy.path / "report" / "table-cache.csv")
    assert [(line["aug_seeds"], line["codec"]) for line in lines] == [
        ("3", "png"), ("3", "png"), ("3", "jpeg"), ("1", "jpeg"), ("3", "png"), ("3", "jpeg"),
    ]  # fmt: skip
    assert lines[0]["delta_online"] == "" and float(lines[1]["delta_online"]) == 0
    assert all(line["num_seeds"] == "1" and 0 < float(line["map_mean"]) <= 100 for line in lines)
    assert lines[-1]["variant"].startswith("refreshed every 2")
    names = {path.name.rsplit("-", 1)[0] for path in tiny_copy.path.with_name("run-s3").glob("models/late-*")}
    assert names == {f"late-entropy-source{kind}" for kind in ("", "-online-base", "-online-current", "-refresh2")}


@pytest.mark.parametrize(("chosen", "word"), [(False, "none"), (True, "all")])
def test_too_few_training_videos_for_table_box(tiny_copy, monkeypatch, chosen, word):
    """`prepare --eval-ids`, which evaluate advises, would not help."""
    monkeypatch.setattr(table_box, "held_out", lambda video_id: chosen)
    with pytest.raises(StageError, match=f"is evaluated here, {word} of its 4; .* prepare --extend adds some"):
        table_box.table_box(tiny_copy.config, tiny_copy.path, sides=(16,))
