"""Evaluation by hand: the maximum over clips, who counts as missing, what is an oracle, and the table of results."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import cache
from cache.errors import StaleCacheError
from cache.sealed import read_record, read_recorded_file, read_sealed, seal, write_record
from cache.upkeep.verify import verify
from pipeline.errors import StageError
from pipeline.report.scores import best, read_results
from pipeline.run.folder import open_folder
from pipeline.run.networks import build_base, load_base, read_trained, write_trained
from pipeline.run.results import rebuild
from pipeline.stages import crops, evaluate, prepare, saliency, train_base, train_fusion
from pipeline.training import clip_scores as scoring
from tests.helpers.tiny_data import CLASSES, VIDEOS, change, tiny_config, tree

TEST = [video_id for video_id in VIDEOS if VIDEOS[video_id][0] == "test"]
NEEDED = ["experiment", "fusion", "boxes_train", "boxes_eval", "pixels", "oracle", "seed", "eval_clips", "map"]
NEEDED += ["map_official", "map_windowed", "num_videos", "num_missing", "num_classes"]


def average_precision(scores, positives):
    """The official rule: precision at the rank of each positive, ties in the order given."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    hits = [rank for rank, i in enumerate(order, 1) if positives[i]]
    return sum((n + 1) / rank for n, rank in enumerate(hits)) / len(hits) if hits else None


def mean_ap(scores, targets):
    found = [average_precision(scores[:, c].tolist(), targets[:, c].tolist()) for c in range(scores.shape[1])]
    found = [value for value in found if value is not None]
    return sum(found) / len(found), len(found)


def targets_of(video_ids):
    return np.array([[c in VIDEOS[video_id][4] for c in range(3)] for video_id in video_ids], int)


def submission(run, experiment):
    """Scores by video id, as the submission file has them."""
    (path,) = run.path.glob(f"results/{experiment}-*.scores.txt")
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    return {line[0]: np.array([float(text) for text in line[1:]]) for line in lines}


def clip_scores(run):
    """Base's mean logits of every evaluation clip: {video id: (clips, C)}."""
    opened = cache.open(run.path, crops="entropy")
    index = opened.index[opened.index.split == "test"]
    return {
        video_id: np.stack([opened.logits(row).astype(float).mean(0) for row in rows.row])
        for video_id, rows in index.groupby("video_id", sort=False)
    }


def test_base_is_scored_by_the_maximum_over_clips(tiny_run):
    by_clip, found = clip_scores(tiny_run), submission(tiny_run, "base")
    assert list(found) == TEST
    for video_id, scores in by_clip.items():
        assert scores.shape == (2, 3)
        np.testing.assert_allclose(found[video_id], scores.max(0), rtol=1e-6, atol=1e-6)
    assert any(np.abs(scores.max(0) - scores.mean(0)).max() > 1e-5 for scores in by_clip.values())


def test_map_of_base_by_hand(tiny_run):
    scores = np.stack([found.max(0) for found in clip_scores(tiny_run).values()])
    expected, classes = mean_ap(scores, targets_of(TEST))
    table = pd.read_csv(tiny_run.path / "results.csv")
    row = table[table.experiment == "base"].iloc[0]
    assert row["map"] == pytest.approx(expected) and row.num_classes == classes == 3
    assert row.map_official == pytest.approx(expected)  # all three are there
    assert (row.num_videos, row.num_missing, row.eval_clips, row.seed) == (3, 0, 2, 0)


def test_windowed_labels_are_those_of_the_frames_that_were_shown(tiny_run):
    """Labels hold until 0.9 s. Windows of 83654 start at 0 and 7/8 s, of T0002 at 0 and 0.5, of T0003 at 0 and 1."""
    scores = np.stack([found.max(0) for found in clip_scores(tiny_run).values()])
    expected, _ = mean_ap(scores, targets_of(TEST))  # every first window lies before 0.9 s
    table = pd.read_csv(tiny_run.path / "results.csv")
    assert table[table.experiment == "base"].map_windowed.item() == pytest.approx(expected)


def test_windowed_labels_leave_out_what_no_window_shows(tiny_copy, tmp_path):
    """One class of T0003 at 0.7 s only, between its windows 0 .. 0.375 and 1 .. 1.375: in `map`, not in the other."""
    text = (tiny_copy.data / "table.csv").read_text() + f"T0003,test,0.65,0.8,{CLASSES[1]}\n"
    (tmp_path / "more.csv").write_text(text)
    config = change(tiny_copy.config, data={"annotations": (str(tmp_path / "more.csv"),)})
    prepare.run(config, tiny_copy.path)
    table = pd.read_csv(evaluate.run(config, tiny_copy.path).path)
    row = table[(table.experiment == "base")].iloc[-1]
    rows = table[table.experiment == "base"]
    assert len(rows) == 2  # other labels, another result
    scores = np.stack([found.max(0) for found in clip_scores(tiny_copy).values()])
    targets = targets_of(TEST)
    windowed, _ = mean_ap(scores, targets)
    targets[TEST.index("T0003"), 1] = 1
    whole, _ = mean_ap(scores, targets)
    keys = {json.loads(path.read_text())["key"] for path in tiny_copy.path.glob("results/base-*.json")}
    assert keys == set(rows.key) and row.num_videos == 3
    assert {round(value, 9) for value in rows["map"]} == {round(windowed, 9), round(whole, 9)}
    assert rows.map_windowed.tolist() == pytest.approx([windowed, windowed])
    assert rows.set_index(rows["map"].round(9)).superseded.fillna("").to_dict() == {
        round(windowed, 9): "labels",
        round(whole, 9): "",
    }


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_fusion_models_by_hand(tiny_run, fusion):
    """Late: the mean of Base's logits and the branch's. Concatenation: one network on eight frames, context first."""
    opened = cache.open(tiny_run.path)
    network = build_base(load_base(open_folder(tiny_run.path, tiny_run.config), tiny_run.config))
    (folder,) = tiny_run.path.glob(f"models/{fusion}-*")
    network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    network.eval()
    found = submission(tiny_run, fusion)
    for video_id, rows in opened.index[opened.index.split == "test"].groupby("video_id"):
        scores = []
        for row in rows.row:
            frames = opened.focus(row)
            if fusion == "concat":
                frames = np.concatenate([opened.context(row), frames])
            with torch.no_grad():
                logits = network(torch.from_numpy(frames)[None].float() / 255)[0].numpy()
            assert logits.shape == ((4, 3) if fusion == "concat" else (2, 3))
            if fusion == "late":
                logits = (logits + opened.logits(row)) / 2
            scores.append(logits.mean(0))
        np.testing.assert_allclose(found[video_id], np.max(scores, axis=0), rtol=1e-4, atol=1e-5)


def test_results_csv(tiny_copy):
    """One row a model; again, the same rows; rebuilt when it is lost; a result that is there is not computed again."""
    table = pd.read_csv(tiny_copy.path / "results.csv")
    assert set(NEEDED) <= set(table.columns)
    assert table.experiment.tolist() == ["base", "concat-entropy-source", "late-entropy-source"]
    assert table.fusion.tolist() == ["none", "concat", "late"] and not table.oracle.any()
    assert table.boxes_eval.tolist() == ["none", "entropy", "entropy"] and table.key.is_unique
    for words in ("T_in 4 at 8 fps", "2 clips, max over clips", "S = 2 stored augmentations"):
        assert table.protocol.str.contains(words).all()
    before = (tiny_copy.path / "results.csv").read_bytes()
    (tiny_copy.path / "results.csv").unlink()
    evaluate.run(tiny_copy.config, tiny_copy.path)
    assert (tiny_copy.path / "results.csv").read_bytes() == before
    (path,) = tiny_copy.path.glob("results/base-*.json")
    path.write_bytes(seal(read_sealed(path) | {"seed": 77}))
    evaluate.run(tiny_copy.config, tiny_copy.path)
    assert pd.read_csv(tiny_copy.path / "results.csv").seed.tolist() == [77, 0, 0]
    assert not list(tiny_copy.path.rglob("*.tmp"))


def test_files_of_another_system_beside_the_results_are_no_results(tiny_copy):
    """macOS writes ._NAME beside every NAME on exFAT and SMB: evaluate and verify read the results alone."""
    for path in tiny_copy.path.glob("results/*.json"):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7Mac OS X")
    evaluate.run(tiny_copy.config, tiny_copy.path)
    assert len(pd.read_csv(tiny_copy.path / "results.csv")) == 3
    assert not [finding for finding in verify(tiny_copy.path) if finding.kind == "damaged"]


def test_a_certain_network_is_ranked_by_its_logits(tiny_copy, monkeypatch):
    """All float32 sigmoids are 1.0, in an order of the logits that is not that of the file: AP of each class is 1."""
    steps = {"83654": (30.0, 40.0, 20.0), "T0002": (20.0, 30.0, 40.0), "T0003": (40.0, 20.0, 30.0)}

    def of_base(stores):
        for part in stores.run.parts_of("test"):
            for row in range(part.num_rows):
                yield part, row, np.array(steps[part.video_ids[row]], np.float32)

    monkeypatch.setattr(scoring, "_base_scores", of_base)
    for path in tiny_copy.path.glob("results/base-*"):
        path.unlink()
    table = pd.read_csv(evaluate.run(tiny_copy.config, tiny_copy.path).path)
    scores, targets = np.array([steps[one] for one in TEST]), targets_of(TEST)
    assert mean_ap(scores, targets)[0] > mean_ap(np.ones_like(scores), targets)[0] + 0.1
    assert table["map"][0] == mean_ap(scores, targets)[0] == table.map_official[0]
    read_back = np.stack([submission(tiny_copy, "base")[one] for one in TEST])
    assert mean_ap(read_back, targets)[0] == table["map"][0]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((CLASSES[1], CLASSES[0], CLASSES[2]), f"number 0 is {CLASSES[0]!r}.*number 0 is {CLASSES[1]!r}"),
        ((CLASSES[0], "lime thing", CLASSES[2]), "number 1 is 'green thing'.*number 1 is 'lime thing'"),
        ((*CLASSES, "new thing"), "3 classes, number 3 is 'none'; now there are 4, number 3 is 'new thing'"),
        (CLASSES[:2], "3 classes, number 2 is 'blue thing'; now there are 2, number 2 is 'none'"),
    ],
)
def test_other_classes_are_refused_by_name(tiny_copy, tmp_path, classes, words):
    """Reordered, renamed, added, removed: by prepare, by all that reads a network of other classes, by the report."""
    lines = (tiny_copy.data / "table.csv").read_text().splitlines()
    lines = [line for line in lines if len(classes) != 2 or CLASSES[2] not in line]
    if "lime thing" in classes:
        lines = [line.replace(CLASSES[1], "lime thing") for line in lines]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.txt").write_text("\n".join(classes) + "\n")
    data = {"annotations": (str(tmp_path / "table.csv"),), "classes": str(tmp_path / "classes.txt")}
    config, before = change(tiny_copy.config, data=data), tree(tiny_copy.path)
    with pytest.raises(StaleCacheError, match=words):
        prepare.run(config, tiny_copy.path)
    assert tree(tiny_copy.path) == before
    annotations = open_folder(tiny_copy.path, tiny_copy.config).annotations
    with pytest.raises(StaleCacheError, match=f"results/base-.*{words}"):
        read_results(tiny_copy.path, replace(annotations, classes=list(classes)))
    (record,) = tiny_copy.path.glob("models/base-*/base.json")
    record.write_bytes(seal(read_sealed(record) | {"classes": list(classes)}))
    for stage in (train_base.run, saliency.run, evaluate.run, train_fusion.run):
        with pytest.raises(StaleCacheError, match=r"models/base-.* was trained on"):
            stage(tiny_copy.config, tiny_copy.path)


def test_a_run_without_networks_takes_other_classes(tiny_run, tmp_path):
    config = tiny_config(tiny_run.data)
    prepare.run(config, tmp_path / "run")
    (tmp_path / "classes.txt").write_text("\n".join(reversed(CLASSES)) + "\n")
    prepare.run(change(config, data={"classes": str(tmp_path / "classes.txt")}), tmp_path / "run")
    assert (tmp_path / "run" / "classes.txt").read_text().split("\n")[:3] == list(reversed(CLASSES))


def test_results_on_other_videos_are_marked(tiny_copy, tmp_path):
    """A new evaluation video makes a result with it; that without it is superseded."""
    lines = (tiny_copy.data / "table.csv").read_text()
    shutil.copytree(tiny_copy.data, tmp_path / "videos")
    shutil.copy(tiny_copy.data / "T0003.mp4", tmp_path / "videos" / "T0009.mp4")
    (tmp_path / "more.csv").write_text(lines + f"T0009,test,0,0.9,{CLASSES[0]}\n")
    data = {"annotations": (str(tmp_path / "more.csv"),), "videos": str(tmp_path / "videos")}
    config = change(tiny_copy.config, data=data)
    prepare.run(config, tiny_copy.path, extend=True)
    saliency.run(config, tiny_copy.path)
    crops.run(config, tiny_copy.path, ("entropy",))
    table = pd.read_csv(evaluate.run(config, tiny_copy.path).path, keep_default_na=False)
    of_base = table[table.experiment == "base"].set_index("num_videos")
    assert of_base.superseded.to_dict() == {3: "labels and videos", 4: ""}


def test_results_of_networks_trained_anew_are_marked(tiny_copy):
    """By the same recipe on the labels of now, or with fewer videos left out; and all of a Base that is gone."""
    run = open_folder(tiny_copy.path, tiny_copy.config)
    (model,) = tiny_copy.path.glob("models/late-*/model.json")
    (result,) = tiny_copy.path.glob("results/late-*.json")
    facts, scored = read_record(model), read_record(result)
    tables = {end: read_recorded_file(result, result.stem + end) for end in (".scores.txt", ".per_class.csv")}

    def write_result(key, **changed):
        files = {key + end: content for end, content in tables.items()}
        write_record(result.with_name(f"{key}.json"), scored | {"key": key} | changed, files)

    def add(name, **changed):
        """A model that differs from the one that is there, and its result."""
        (model.parents[1] / f"late-{name}").mkdir()
        write_record(model.parents[1] / f"late-{name}" / "model.json", facts | {"weights": name} | changed, {})
        write_result(f"late-{name * 16}", weights=name)

    add("a", labels_sha256="of before")
    add("b", labels_sha256="of before", seed=5)  # the only one with this seed
    add("c", left_out=["NA"])
    add("d", base="gone")
    add("e", labels_sha256="of before", recipe=facts["recipe"] | {"epochs": 9})
    write_result(f"base-{'f' * 16}", experiment="base", fusion="none", weights="gone")
    rebuild(run)
    found = pd.read_csv(tiny_copy.path / "results.csv", keep_default_na=False).set_index("key").superseded
    marked = {f"late-{name * 16}" for name in "acd"} | {f"base-{'f' * 16}"}
    assert {key: why for key, why in found.items() if why} == dict.fromkeys(marked, "network")
    results = read_results(tiny_copy.path, run.annotations)
    assert {one.facts["key"] for one in results if one.facts["superseded"]} == marked
    assert best([one for one in results if one.facts["key"] in {*marked, result.stem}]).facts["key"] == result.stem


def test_results_of_before_are_judged_by_their_scores(tiny_copy, tmp_path):
    """They do not say which labels they were scored with."""
    (path,) = tiny_copy.path.glob("results/base-*.json")
    facts = {name: value for name, value in read_sealed(path).items() if name not in ("labels_sha256", "plan")}
    path.write_bytes(seal(facts))
    evaluate.run(tiny_copy.config, tiny_copy.path)
    assert pd.read_csv(tiny_copy.path / "results.csv").superseded.isna().all()
    path.write_bytes(seal(facts | {"map": facts["map"] - 0.1}))
    evaluate.run(tiny_copy.config, tiny_copy.path)
    assert pd.read_csv(tiny_copy.path / "results.csv").superseded.tolist()[0] == "labels"


def test_per_class_table(tiny_run):
    (path,) = tiny_run.path.glob("results/base-*.per_class.csv")
    table = pd.read_csv(path)
    assert table["class"].tolist() == list(CLASSES)
    assert table.positives.tolist() == targets_of(TEST).sum(0).tolist() == [2, 1, 1]
    scores = np.stack([found.max(0) for found in clip_scores(tiny_run).values()])
    expected = [average_precision(scores[:, c].tolist(), targets_of(TEST)[:, c].tolist()) for c in range(3)]
    assert table.ap.tolist() == pytest.approx(expected)


def test_some_videos_only(tiny_copy):
    """One of three: `map` knows this one alone; the official rule ranks the absent two last, in the file's order."""
    outcome = evaluate.run(tiny_copy.config, tiny_copy.path, eval_ids=("T0002",))
    table = pd.read_csv(outcome.path)
    rows = table[table.num_videos == 1]
    assert len(table) == 6 and len(rows) == 3 and rows.num_missing.tolist() == [2, 2, 2]
    assert rows["map"].tolist() == [1.0] * 3 and rows.num_classes.tolist() == [1] * 3
    # red: 83654, T0003 absent, behind T0002: ranks 2 and 3; green: 83654 at 2; blue: T0002 at 1
    assert rows.map_official.tolist() == pytest.approx([((1 / 2 + 2 / 3) / 2 + 1 / 2 + 1) / 3] * 3)
    with pytest.raises(StageError, match=r"--eval-ids: 07E49 not among the plan's 3 evaluation videos"):
        evaluate.run(tiny_copy.config, tiny_copy.path, eval_ids=("T0002", "07E49"))


def test_no_evaluation_video(own_videos, tmp_path):
    lines = (own_videos.data / "table.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join(line for line in lines if ",test," not in line) + "\n")
    config = change(own_videos.config, data={"annotations": (str(tmp_path / "train.csv"),)})
    prepare.run(config, tmp_path / "other")
    with pytest.raises(StageError) as caught:
        evaluate.run(config, tmp_path / "other")
    assert str(caught.value) == "the plan has no evaluation video; `prepare --eval-ids ID,...` moves some there"
    moved = change(config, data={"eval_ids": ("NA", "07E49")}, base={"epochs": 1})
    prepare.run(moved, tmp_path / "moved")
    train_base.run(moved, tmp_path / "moved")
    saliency.run(moved, tmp_path / "moved")
    assert pd.read_csv(evaluate.run(moved, tmp_path / "moved").path).num_videos.tolist() == [2]


def test_boxes_that_know_the_labels_are_an_oracle(tiny_copy):
    """Trained on entropy, evaluated on cross-entropy boxes: only with --use-labels, and marked."""
    config = change(tiny_copy.config, saliency={"objectives": ("entropy", "cross_entropy")})
    saliency.run(config, tiny_copy.path, use_labels=True)
    with pytest.raises(StageError, match=r"know the labels; say --use-labels"):
        evaluate.run(config, tiny_copy.path, "cross_entropy")
    with pytest.raises(StageError, match=r"units of crops are not done .*; run crops first"):
        evaluate.run(config, tiny_copy.path, "cross_entropy", use_labels=True)
    crops.run(config, tiny_copy.path, ("cross_entropy",))
    table = pd.read_csv(evaluate.run(config, tiny_copy.path, "cross_entropy", use_labels=True).path)
    marked = table[table.oracle]
    assert marked.experiment.tolist() == [f"{name}-entropy-source-eval-cross_entropy" for name in ("concat", "late")]
    assert (marked.boxes_train == "entropy").all() and (marked.boxes_eval == "cross_entropy").all()
    assert len(table) == 5 and not table[~table.oracle].experiment.str.contains("cross").any()


def test_scores_are_computed_in_as_many_threads_as_the_config_says(tiny_copy, monkeypatch):
    """Whatever the process had before, and has again afterwards: another number may change last digits."""
    used, logits_of = [], scoring.fusion_logits
    monkeypatch.setattr(
        scoring, "fusion_logits", lambda *args: used.append(torch.get_num_threads()) or logits_of(*args)
    )
    for path in tiny_copy.path.glob("results/late-*"):
        path.unlink()
    torch.set_num_threads(2)
    try:
        evaluate.run(tiny_copy.config, tiny_copy.path)
        assert set(used) == {tiny_copy.config.saliency.threads} == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_repeat_has_no_boxes(tiny_copy):
    train_fusion.run(tiny_copy.config, tiny_copy.path, "late", "repeat")
    table = pd.read_csv(evaluate.run(tiny_copy.config, tiny_copy.path).path)
    row = table[table.experiment == "late-repeat"].iloc[0]
    assert (row.boxes_train, row.boxes_eval, row.pixels, row.num_videos) == ("repeat", "repeat", "input", 3)


def test_the_last_epoch_counts_whatever_the_videos_say(tiny_run):
    """weights.pt is the newest checkpoint's network: nothing is chosen."""
    for folder in tiny_run.path.glob("models/*"):
        newest = sorted(folder.glob("checkpoint-*.pt"))[-1]
        content, weights = (torch.load(path, weights_only=True) for path in (newest, folder / "weights.pt"))
        assert content["step"] == 0 and content["epoch"] == (2 if folder.name.startswith("base") else 3)
        assert all(torch.equal(value, weights[name]) for name, value in content["network"].items())


def test_another_number_of_clips_is_refused(tiny_copy):
    config = change(tiny_copy.config, clips={"eval_clips": 3})
    with pytest.raises(StaleCacheError, match=r"clips.eval_clips: 3, the plan has 2 clips a video"):
        evaluate.run(config, tiny_copy.path)


def test_videos_that_are_back_are_scored_and_trained_on(own_videos):
    """A result of fewer videos is made anew; a model that lacked a training video is another one than with it."""
    config, run = own_videos.config, own_videos.path
    saliency.run(config, run)
    for video_id in ("T0002", "07E49"):
        (own_videos.data / f"{video_id}.mp4").rename(own_videos.data / f"{video_id}.away")
    crops.run(config, run, ("entropy",))
    short = train_fusion.run(config, run, "late")
    table = pd.read_csv(evaluate.run(config, run).path)
    assert "on 3 videos" in short.summary and table.num_videos.tolist() == [3, 2]
    for video_id in ("T0002", "07E49"):
        (own_videos.data / f"{video_id}.away").rename(own_videos.data / f"{video_id}.mp4")
    crops.run(config, run, ("entropy",), retry=True)
    assert pd.read_csv(evaluate.run(config, run).path).num_videos.tolist() == [3, 3]
    whole = train_fusion.run(config, run, "late")
    assert whole.path != short.path and "on 4 videos" in whole.summary


def test_a_model_that_diverged_is_named_and_the_others_are_scored(tiny_copy):
    (folder,) = tiny_copy.path.glob("models/late-*")
    state = torch.load(folder / "weights.pt", weights_only=True)
    state["fc.bias"][0] = float("nan")
    write_trained(folder / "model.json", state, read_trained(folder / "model.json"))
    for path in tiny_copy.path.glob("results/*-*"):
        path.unlink()
    with pytest.raises(StageError, match=r"the scores of .*models/late-.* are NaN.*the other results are written"):
        evaluate.run(tiny_copy.config, tiny_copy.path)
    assert pd.read_csv(tiny_copy.path / "results.csv").experiment.tolist() == ["base", "concat-entropy-source"]


def test_results_go_to_a_new_folder(tiny_copy, tmp_path):
    outcome = evaluate.run(tiny_copy.config, tmp_path / "new", caches=tiny_copy.path)
    assert pd.read_csv(outcome.path).experiment.tolist() == ["base"]


def test_a_model_is_evaluated_at_the_maps_that_it_was_trained_with(tiny_copy):
    """Whatever the config says by now: as with --boxes-eval none are asked for."""
    grad_cam = change(tiny_copy.config, saliency={"method": "grad_cam"})
    saliency.run(grad_cam, tiny_copy.path)
    crops.run(grad_cam, tiny_copy.path, ("entropy",))
    folder = train_fusion.run(grad_cam, tiny_copy.path, "late").path
    wanted = evaluate.result_path(grad_cam, tiny_copy.path, folder)
    assert evaluate.run_model(tiny_copy.config, tiny_copy.path, folder) == wanted
    assert evaluate.result_path(tiny_copy.config, tiny_copy.path, folder, "entropy") != wanted
