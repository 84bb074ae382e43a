"""Every stage with one label a video: softmax where a multi-label run has sigmoids, top-1 beside mAP."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import cache
from models.losses import LossTerms, charades_loss, negative_class_entropy
from pipeline.cli.main import main
from pipeline.config import Config, Data, Evaluate, Saliency, check_together, pooling_of
from pipeline.config_file import load, to_toml
from pipeline.config_keys import task_settings
from pipeline.errors import AnnotationError, StageError
from pipeline.metrics import resamples, top_k_hits
from pipeline.predict import run as predict
from pipeline.predict.passes import WindowRule
from pipeline.predict.tables import Report
from pipeline.recipes import refresh
from pipeline.recipes.study import read_scored
from pipeline.recipes.table2 import table2
from pipeline.report import page, scores
from pipeline.run.folder import open_folder
from pipeline.run.fusion_models import read_model
from pipeline.run.networks import base_folder, build_base, load_base
from pipeline.run.predictions import read_video
from pipeline.run.stores import open_run
from pipeline.stages import evaluate, saliency, train_base, train_fusion, train_online
from pipeline.training import fusion_step, online_clips
from pipeline.training.base_clips import BaseClips
from pipeline.training.clip_scores import scores_by_video
from tests.helpers.tiny_data import CLASSES, VIDEOS, change, make_data, run_all, tiny_config, tree

LABELS = dict(zip(VIDEOS, (0, 1, 2, 0, 1, 2, 0), strict=True))
TEST = [video_id for video_id in VIDEOS if VIDEOS[video_id][0] == "test"]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Config and folder of a run through all stages. NA has times, the others have not."""
    root = tmp_path_factory.mktemp("single")
    data = make_data(root / "data")
    lines = [f"{one},{VIDEOS[one][0]},{'0,0.9' if one == 'NA' else ','},{CLASSES[LABELS[one]]}" for one in VIDEOS]
    (data / "table.csv").write_text("\n".join(["video_id,split,start,end,label", *lines]) + "\n")
    config = tiny_config(data, data={"task": "single_label"}, saliency={"objectives": ("entropy", "max_logit")})
    run_all(config, root / "run")
    return config, root / "run"


def base_clip_logits(run):
    """Base's mean logits of every evaluation clip: {video id: (clips, C)}."""
    opened = cache.open(run, maps="entropy", boxes="entropy")
    index = opened.index[opened.index.split == "test"]
    by_video = index.groupby("video_id", sort=False)
    return {one: np.stack([opened.logits(row).astype(float).mean(0) for row in rows.row]) for one, rows in by_video}


def test_base_is_trained_on_cross_entropy(single):
    config, run = single
    clips = BaseClips(open_folder(run, config), config)
    batch = clips.load(0, [0, 3])  # 07E49 and NA
    assert batch.video_targets.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert not batch.frame_targets[0].any() and batch.frame_targets[1].any()
    logits = torch.linspace(-2, 3, 12).reshape(2, 2, 3)
    found = clips.loss(lambda video: logits, batch)
    terms = LossTerms.of(config.base, "single_label")
    assert found == charades_loss(logits, batch.video_targets, batch.frame_targets, terms)
    of_first = torch.nn.functional.cross_entropy(logits[:1].mean(1), torch.tensor([0]))
    assert charades_loss(logits[:1], batch.video_targets[:1], batch.frame_targets[:1], terms) == pytest.approx(of_first)


def test_the_stored_entropy_is_that_of_the_softmax(single):
    _, run = single
    opened = cache.open(run, maps="entropy", boxes="entropy")
    logits = torch.from_numpy(np.stack([opened.logits(row) for row in range(opened.num_rows)]))
    np.testing.assert_allclose(opened.index.entropy, -negative_class_entropy(logits), rtol=1e-5)
    assert opened.index.entropy.between(0, np.log(3) + 1e-6).all()


def test_maps_are_the_gradient_of_the_softmax_entropy(single):
    config, run = single
    opened = cache.open(run, maps="entropy", boxes="entropy")
    network = build_base(load_base(open_folder(run, config), config)).eval()
    video = torch.from_numpy(opened.context(0))[None].float() / 255
    leaf = video.requires_grad_()
    (gradient,) = torch.autograd.grad(negative_class_entropy(network(leaf)).sum(), leaf)
    expected = gradient[0].norm(dim=-1).amax(0)
    np.testing.assert_allclose(opened.saliency(0), expected, rtol=1e-2, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_scores_and_accuracies_by_hand(single, pooling, tmp_path):
    config, run = single
    config = replace(config, evaluate=Evaluate(pooling))
    table = pd.read_csv(evaluate.run(config, run).path)
    row = table[(table.experiment == "base") & table.protocol.str.contains(f"{pooling} over clips")].iloc[0]
    assert ", one label a video" in row.protocol
    probabilities = []
    for logits in base_clip_logits(run).values():
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        probabilities.append(p.mean(0) if pooling == "mean" else p.max(0))
    (found,) = [one for one in scores.read_results(run, open_folder(run, config).annotations)
                if one.facts["key"] == row.key]  # fmt: skip
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-5)
    right = [p.argmax() == LABELS[one] for p, one in zip(probabilities, TEST, strict=True)]
    assert row.top1 == pytest.approx(np.mean(right)) and row.top5 == 1  # of three classes
    assert row.mean_class_accuracy == pytest.approx(np.mean(right))  # one video a class
    scored = read_scored(run / "results" / f"{row.key}.json", open_folder(run, config).annotations).scored
    times = resamples(3)
    drawn = [np.mean(np.repeat(right, column)) for column in times.T]
    assert scored.map == row.top1
    np.testing.assert_allclose(scored.resampled, drawn, rtol=1e-9)
    assert (found.value().low, found.value().high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))


def test_the_order_of_videos_is_kept_where_float32_probabilities_are_one(single, monkeypatch, tmp_path):
    """Gaps of 20 and 30 between logits: both softmaxes are 1.0; the second video is the surer one."""
    config, run = single
    logits = {one: np.zeros((2, 3), np.float32) for one in TEST}
    for one, gap in zip(TEST, (20, 30, 25), strict=True):
        logits[one][:, 1] = gap
    assert all(torch.from_numpy(one).softmax(-1)[0, 1] == 1 for one in logits.values())
    windowed = {one: np.eye(3, dtype=np.uint8)[LABELS[one]] for one in TEST}
    monkeypatch.setattr(evaluate, "scores_by_video", lambda *_: (logits, windowed))
    stores = open_run(run, config)
    facts = {"experiment": "base", "boxes_eval": "none"}
    evaluate._evaluate(stores, None, "none", facts, TEST, tmp_path / "base-x.json")
    lines = [line.split() for line in (tmp_path / "base-x.scores.txt").read_text().splitlines()]
    assert [line[0] for line in sorted(lines, key=lambda line: -float(line[2]))] == [TEST[1], TEST[2], TEST[0]]


def test_printed_and_reported(single, tmp_path):
    config, run = single
    (tmp_path / "tiny.toml").write_text(to_toml(config))
    common = ["--config", str(tmp_path / "tiny.toml"), "--run", str(run)]
    output = CliRunner().invoke(main, ["evaluate", *common]).output
    assert "mean_class_accuracy" in output and "map_windowed" not in output and "mean over clips" in output
    assert "Accuracies and mAP in per cent" in output
    assert "one label a video" in CliRunner().invoke(main, ["inspect", *common]).output
    text = page.run(run, out=tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert "top-5" in text and "windowed" not in text and "of Base over classes" in text
    results = scores.read_results(run, open_folder(run, config).annotations)
    base, late = (next(one for one in results if one.facts["fusion"] == fusion) for fusion in ("none", "late"))
    hits = [top_k_hits(one.scores, one.targets) for one in (late, base)]
    assert scores.gain(late, base).value == pytest.approx(hits[0].mean() - hits[1].mean())


def test_the_task_is_in_every_key_and_nothing_is_mixed(single):
    config, run = single
    many = change(config, data={"task": "multi_label"}, saliency={"objectives": ("entropy",)})
    assert task_settings(many) == {} and task_settings(config) == {"task": "single_label"}
    folders = [base_folder(open_folder(run, one), one) for one in (config, many)]
    assert folders[0] != folders[1]
    with pytest.raises(StageError, match="no trained Base for this config"):
        saliency.run(many, run)
    # the same weights in both tasks: the entropy and the maps are other ones, the context volumes are not
    many = change(many, base={"init": str(folders[0] / "weights.pt"), "epochs": 0})
    train_base.run(many, run)
    stores, others = open_run(run, config), open_run(run, many)
    part = stores.run.parts[0]
    assert stores.base_weights.sha256 == others.base_weights.sha256
    assert stores.base_settings(part) == others.base_settings(part) | {"task": "single_label"}
    assert stores.context_settings(part) == others.context_settings(part)
    settings = [
        train_fusion.model_facts(one, train_fusion.Variant("late", "repeat", "input")) for one in (stores, others)
    ]
    assert settings[0] == settings[1] | {"task": "single_label"}
    before = tree(run / "models", run / "maps")
    train_fusion.run(config, run)
    assert tree(run / "models", run / "maps") == before


def test_every_training_and_evaluation_is_told_the_task(single, tmp_path, monkeypatch):
    """From the caches, on the fly and refreshed: the loss, the fusion of scores, the maps of the labels' loss."""
    config, run = single
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("late*", "concat*", "results*"))
    config = change(
        config, fusion={"epochs": 2, "drop_epochs": (), "fuse": "scores"}, saliency={"objectives": ("entropy",)}
    )
    seen = Counter()

    def spy(module, name, told):
        real = getattr(module, name)

        def spied(*args):
            seen[name, told(args)] += 1
            return real(*args)

        monkeypatch.setattr(module, name, spied)

    spy(fusion_step, "charades_loss", lambda args: args[3].task)
    spy(fusion_step, "late_fusion", lambda args: args[3])
    spy(online_clips, "saliency_maps", lambda args: (args[5].terms.task, args[6]))
    spy(saliency, "saliency_maps", lambda args: args[6])
    train_fusion.run(config, tmp_path / "run")
    train_online.run(config, tmp_path / "run", focus="cross_entropy")
    refresh.run(config, tmp_path / "run", every=1)
    assert {key: count > 0 for key, count in seen.items()} == {
        ("charades_loss", "single_label"): True,
        ("late_fusion", "single_label"): True,
        ("saliency_maps", ("single_label", "single_label")): True,
        ("saliency_maps", "single_label"): True,
    }
    seen.clear()
    stores = open_run(tmp_path / "run", config)
    model = next(path for path in (tmp_path / "run/models").glob("late-entropy-source-*") if "refresh" not in path.name)
    scores_by_video(stores, read_model(model), "entropy", set(TEST))
    assert seen.keys() == {("late_fusion", "single_label")}


def test_the_table_with_its_own_row_of_the_enlarged_input(single, tmp_path):
    config, run = single
    shutil.copytree(run, tmp_path / "run")
    config = change(config, fusion={"epochs": 1, "drop_epochs": ()})
    outcome = table2(config, tmp_path / "run", only=("e/e", "e/e-up"))
    assert "Top-1 accuracy in per cent" in outcome.path.read_text() and "mean over clips" in outcome.path.read_text()
    lines = pd.read_csv(tmp_path / "run/report/table2.csv").set_index(["row", "fusion"])
    assert len(lines) == 20 and lines.num_seeds["e/e-up", "late"] == 1 and lines.num_seeds["ce/e-up", "late"] == 0
    thirds = lines.top1_mean["e/e-up", "late"] * 3 / 100
    assert thirds == pytest.approx(round(thirds), abs=1e-4)
    contrasts = pd.read_csv(tmp_path / "run/report/contrasts.csv")
    assert contrasts[contrasts.row_b == "e/e-up"].num_seeds.tolist() == [1, 1]
    without = table2(config, tmp_path / "run", only=("e/e",))
    assert without.summary == "4 of 18 results" and outcome.summary == "6 of 20 results"


@pytest.mark.parametrize("experiment", ["base", "late-entropy-source"])
def test_prediction_equals_evaluation(single, experiment, tmp_path):
    """Windows are scored by softmax, videos by their mean; the entropy is that of the softmax."""
    config, run = single
    evaluate.run(config, run)
    asked = predict.Experiment(run, experiment, device="cpu")
    files = [Path(config.data.videos) / f"{one}.mp4" for one in TEST]
    predict.run(asked, files, tmp_path / "out", WindowRule("as-evaluated"), Report(), predict.Workers(1))
    results = scores.read_results(run, open_folder(run, config).annotations)
    (wanted,) = [one for one in results if one.name == experiment and "mean over clips" in one.facts["protocol"]]
    for video_id, expected in zip(wanted.ids, wanted.probabilities, strict=True):
        found = read_video(tmp_path / "out", video_id)
        np.testing.assert_allclose(found.table[found.classes].sum(axis=1), 1, rtol=1e-9)
        np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
        assert found.table.entropy.between(0, np.log(3) + 1e-6).all()


def test_labels_of_a_run_that_was_prepared_for_many_are_refused(tiny_run):
    config = change(tiny_run.config, data={"task": "single_label"})
    with pytest.raises(AnnotationError, match=r"labels\.csv, line 4: 150E6 is 'green thing' and 'blue thing'"):
        train_base.run(config, tiny_run.path)


def test_settings(tmp_path):
    one, many = Config("x", data=Data(task="single_label")), Config("x")
    assert [pooling_of(config) for config in (many, one)] == ["max", "mean"]
    assert pooling_of(replace(one, evaluate=Evaluate("max"))) == "max"
    with pytest.raises(ValueError, match=r"fusion\.video_targets: expected 'video' with data\.task single_label"):
        check_together(replace(one, fusion=replace(one.fusion, video_targets="clip")))
    with pytest.raises(ValueError, match=r"saliency\.objectives: expected 'entropy'.*'softmax_entropy'"):
        check_together(replace(one, saliency=Saliency(objectives=("softmax_entropy",))))
    assert load("miniature-single").data.task == "single_label"
