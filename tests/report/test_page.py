"""The report: numbers by hand, pictures from the cache alone, nothing unescaped, what is missing is said."""

import base64
import html
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

import cache
from cache.errors import CacheError, DamagedError
from cache.sealed import read_record, read_recorded_file, write_record
from pipeline.cli.main import main
from pipeline.data.plain_csv import read_plain
from pipeline.errors import StageError
from pipeline.metrics import average_precision, mean_average_precision, resamples
from pipeline.report import box_maps, charts, chosen_stores, gallery, page, pictures, scores
from pipeline.report.chosen_stores import Boxes
from pipeline.run.costs import add_costs
from pipeline.stages import crops, train_fusion
from pipeline.training.loop import write_metrics
from tests.helpers.tiny_data import CLASSES


def read(run_dir, **options):
    return page.run(run_dir, **options).path.read_text(encoding="utf-8")


def result(targets, values, fusion="late", facts=None, base="b"):
    """A result of made-up scores whose mAP is the true one."""
    found = mean_average_precision(np.array(values, float), np.array(targets)).map
    told = {"experiment": fusion, "fusion": fusion, "map": found, "seed": 0, "oracle": False, "key": fusion}
    ids = tuple(f"v{number}" for number in range(len(values)))
    return scores.Result(told | (facts or {}), base, ids, np.array(values, float), np.array(targets))


TARGETS = [[1, 0], [0, 1], [1, 1], [0, 0]]
BASE = result(TARGETS, [[0.1, 0.9], [0.4, 0.8], [0.3, 0.1], [0.9, 0.9]], "none")
LATE = result(TARGETS, [[0.9, 0.9], [0.4, 0.8], [0.5, 0.1], [0.9, 0.9]], "late")


def test_gains_by_hand():
    """Base ranks the first class v1, v2, v0, (v3 is unlabelled, so last): hits at 2 and 3. Late: at 1 and 2."""
    found = scores.class_gains(LATE, BASE, ["first", "second"])
    assert [one.name for one in found] == ["first", "second"]  # by falling gain
    assert found[0].base == pytest.approx((1 / 2 + 2 / 3) / 2) and found[0].ap == pytest.approx(1)
    assert found[0].gain.value == pytest.approx(1 - 7 / 12) and found[0].positives == 2
    assert found[1].gain.value == 0 and found[1].base == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.gain(LATE, BASE).value == pytest.approx((1 - 7 / 12) / 2)


def test_class_intervals_are_the_paired_bootstrap():
    """Against AP of every list of drawn videos, one by one."""
    times = resamples(4)
    drawn = [np.repeat(np.arange(4), column) for column in times.T]
    keep = np.array([True, True, True, False])  # the unlabelled one is last whatever its score
    spread = []
    for chosen in drawn:
        order = np.concatenate([chosen[keep[chosen]], chosen[~keep[chosen]]])
        values = [np.where(keep[order], one.scores[order, 0], -1) for one in (LATE, BASE)]
        target = LATE.targets[order, 0]
        spread.append(average_precision(values[0], target) - average_precision(values[1], target))
    low, high = np.nanquantile(spread, (0.025, 0.975))
    found, same = (one.gain for one in scores.class_gains(LATE, BASE, ["first", "second"]))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.low < found.high
    assert same == scores.Interval(0.0, 0.0, 0.0)


def test_gain_of_a_video_by_hand():
    """v0: its label rises by 0.8, the other class by 0; v2: all classes are labels; v3: none is."""
    found = scores.video_gains(LATE, BASE)
    assert found == pytest.approx({"v0": 0.8, "v1": 0.0, "v2": 0.1, "v3": 0.0})
    swapped = scores.video_gains(BASE, LATE)
    assert swapped["v0"] == pytest.approx(-0.8)
    other = result(TARGETS, [[0.1, 0.7], [0.4, 0.8], [0.3, 0.1], [0.7, 0.9]])
    assert scores.video_gains(other, BASE)["v0"] == pytest.approx(0.2)  # another class falls: a gain
    assert scores.video_gains(other, BASE)["v3"] == pytest.approx(0.1)


def test_which_base_a_result_is_compared_with():
    stranger = result(TARGETS, BASE.scores, "none", base="another")
    fewer = scores.Result(BASE.facts, "b", BASE.ids[:3], BASE.scores[:3], BASE.targets[:3])
    corrected = scores.Result(BASE.facts | {"map": 0.123}, "b", BASE.ids, BASE.scores, BASE.targets)
    assert not corrected.fits_labels and not corrected.has_intervals
    assert scores.base_of(LATE, [stranger, fewer, corrected, LATE]) is None
    assert scores.base_of(LATE, [stranger, BASE, LATE]) is BASE
    assert scores.base_of(BASE, [BASE, LATE]) is None


def test_the_chosen_result_is_the_highest_that_does_not_know_the_labels():
    oracle = result(TARGETS, [[1, 0], [0, 1], [1, 1], [0, 0]], "concat", {"oracle": True, "key": "k"})
    assert scores.best([BASE, LATE, oracle]) is LATE
    assert scores.best([BASE, LATE, oracle], "k") is oracle
    assert scores.best([BASE]) is None
    with pytest.raises(StageError, match="'nothing' has no result; there are: late, concat"):
        scores.best([BASE, LATE, oracle], "nothing")


def test_logits_are_shown_and_compared_as_probabilities():
    """Results of before hold probabilities, which compare with those of logits."""
    logits = np.log(LATE.scores / (1 - LATE.scores))
    late = result(TARGETS, logits, "late", {"scores": "logits"})
    np.testing.assert_allclose(late.probabilities, LATE.scores, rtol=1e-12)
    assert result(TARGETS, [[-800.0, 800.0]] * 4, "late", {"scores": "logits"}).probabilities[0].tolist() == [0.0, 1.0]
    expected = scores.video_gains(LATE, BASE)
    assert scores.video_gains(late, BASE) == pytest.approx(expected) and any(expected.values())
    (_, change) = gallery.score_changes(late, BASE, ["first", "second"], "v1")
    assert (change.name, change.before, change.after) == ("first", pytest.approx(0.4), pytest.approx(0.4))


def test_one_video_has_no_interval():
    one = result([[1, 0]], [[0.5, 0.5]])
    assert one.map().value == 1 and np.isnan(one.map().low)


def test_coverage_by_hand():
    boxes = np.array([[0, 1, 2, 3], [1, 1, 1, 1], [0, 0, 3, 4]])  # of a frame of 3 x 4
    assert (box_maps.coverage(boxes, (3, 4)) * 3).round().astype(int).tolist() == [
        [1, 2, 2, 2],
        [1, 3, 2, 2],
        [1, 1, 1, 1],
    ]


def test_overlap_is_of_the_same_rows():
    whole = np.array([[0, 0, 2, 2], [5, 5, 2, 2], [9, 9, 2, 2]])
    a = Boxes("a", np.array([3, 5, 8]), whole, whole, np.full(3, 0.5, np.float32))
    b = Boxes("b", np.array([5, 8, 9]), whole, whole, np.full(3, np.nan, np.float32))
    shifted = Boxes("b", np.array([5, 8, 9]), np.roll(whole, -1, 0), whole, b.share)
    assert box_maps.overlap(a, shifted) == box_maps.Overlap(2, 1.0, 1.0)
    assert box_maps.overlap(a, b).mean == 0
    assert box_maps.overlap(a, Boxes("c", np.array([1]), whole[:1], whole[:1], b.share[:1])) is None


def test_sizes_by_hand():
    source = np.array([[0, 0, 10, 40], [0, 0, 30, 40], [0, 0, 20, 40], [0, 0, 29, 50]])
    found = box_maps.sizes(Boxes("a", np.arange(4), source, source, np.array([0.2, 0.4, np.nan, 0.6])), (20, 40))
    assert found["height"][1] == 24.5 and found["width"][1] == 40 and found["short"] == 1 / 4
    assert found["share"] == pytest.approx(0.4)
    assert box_maps.sizes(Boxes("a", np.arange(4), source, source, np.full(4, np.nan)), (20, 41))["short"] == 3 / 4


def test_extremes_take_turns():
    table = pd.DataFrame(
        {
            "video_id": ["a", "a", "b", "c", "d", "e", "f"],
            "gain": [0.9, 0.9, 0.5, -0.7, 0.1, 0.0, 0.2],
            "entropy": [5, 1, 2, 9, 3, 4, 6],
            "share": [0.1, 0.8, 0.2, 0.5, 0.9, 0.05, 0.3],
        },
        index=[10, 11, 12, 13, 14, 15, 16],
    )
    # gain: of video a the clip with most saliency, 11; loss 13; entropy high: 13 is taken, 16; low: 11 taken, 12;
    # share high 14; low 15; then all clips evenly, 10
    assert gallery.choose(table, 7) == [11, 13, 16, 12, 14, 15, 10]
    assert gallery.choose(table, 3) == [11, 13, 16]
    unknown = table.assign(gain=np.nan, entropy=np.nan, share=np.nan)
    assert gallery.choose(unknown, 3) == [10, 13, 16]
    assert gallery.choose(table[:0], 3) == []


def test_evenly():
    assert pictures.evenly(16, 4) == [0, 5, 10, 15]
    assert pictures.evenly(3, 8) == [0, 1, 2] and pictures.evenly(1, 8) == [0]


def test_the_veil_is_where_the_saliency_is():
    saliency = np.zeros((3, 4))
    saliency[1, 2], saliency[0, 3] = 4, 1
    layer = pictures.veil(saliency)
    assert layer.shape == (3, 4, 4) and layer[..., 3].tolist() == [[0, 0, 0, 50], [0, 0, 200, 0], [0, 0, 0, 0]]
    assert layer[1, 2, :3].tolist() == [0xF0, 0xE4, 0x42]
    assert not pictures.veil(np.zeros((3, 4)))[..., 3].any()
    frames = np.full((2, 3, 4, 3), 100, np.uint8)
    seen = pictures.under_veil(frames, layer)
    assert (seen[:, 2] == 100).all() and seen[0, 1, 2].tolist() == [210, 200, 73]


def test_a_large_map_is_averaged_over_patches():
    saliency = np.zeros((120, 100), np.uint16)
    saliency[3:6, 0:3], saliency[119, 99] = 900, 900  # patches of 3 x 3
    found = pictures.pooled(saliency)
    assert found.shape == (40, 34) and found[1, 0] == pytest.approx(900) and found[0, 0] == found[1, 1] == 0
    assert np.argwhere(found > 0).tolist() == [[1, 0], [39, 33]]
    assert pictures.pooled(np.ones((56, 40))).shape == (56, 40)


def test_films_run_from_left_to_right():
    frames = np.stack([np.full((4, 6, 3), 50 * number, np.uint8) for number in range(3)])
    assert pictures.film(frames, 9).shape == (4, 18, 3) and (pictures.film(frames, 9)[:, 6:12] == 50).all()
    assert pictures.film(frames, 3).shape == (2, 9, 3)


def test_heat_is_brighter_where_more_is():
    grey = pictures.heat(np.linspace(0, 0.4, 9)[None], 0.4)[0].astype(int) @ [299, 587, 114]
    assert (np.diff(grey) > 0).all()


def test_whisker_stands_where_its_numbers_say():
    drawn = str(charts.whisker(0.5, 0.25, 0.75, (-1.0, 1.0)))
    assert 'x1="74.0" x2="102.0"' in drawn and 'cx="88.0"' in drawn and "dot up" in drawn
    assert 'class="zero" x1="60.0"' in drawn
    alone = str(charts.whisker(-0.5, float("nan"), float("nan"), (-0.5, 0.0)))
    assert "dot down" in alone and 'class="range' not in alone and 'cx="4.0"' in alone and 'x1="116.0"' in alone
    assert "dot even" in str(charts.whisker(0.0, 0.0, 0.0, (0.0, 0.0)))


def films(text, video_id):
    """A card and its films of input and focus, uint8 (T, H, W, 3)."""
    cards = re.findall(r'<article class="card".*?</article>', text, re.DOTALL)
    card = next(one for one in cards if f"<h3>{video_id} " in one)
    found = []
    for name in ("--i", "--f"):
        content = base64.b64decode(re.search(rf"{name}:url\(data:image/webp;base64,([^)]+)\)", card).group(1))
        wide = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        found.append(np.stack(np.split(wide, wide.shape[1] // wide.shape[0], axis=1)))
    return card, *found


def test_points_of_a_plane_stand_where_their_numbers_say():
    """The right one is twice as far from 0; the higher one is higher."""
    svg = charts.plane([(10, 60.0), (20, 90.0)], False, "mAP against GFLOP")
    places = [tuple(map(float, one)) for one in re.findall(r'cx="([0-9.]+)" cy="([0-9.]+)"', svg)]
    (left, low), (right, high) = places
    assert right - charts.LEFT == pytest.approx(2 * (left - charts.LEFT), abs=0.2) and low - high > 50
    assert ">1</text>" in svg and ">2</text>" in svg and "polyline" not in svg
    assert "polyline" in charts.plane([(0, 1.0), (100, 1.0)], True, "x")


def test_costs_and_the_gated_look_are_drawn(tiny_copy):
    keys = {path.stem.rpartition("-")[0]: path.stem for path in tiny_copy.path.glob("results/*-*.json")}
    cost = {"gflop": {"base": 3.0, "look": 5.5}, "seconds": {"base": 0.25}, "device": "a <machine>"}
    add_costs(tiny_copy.path, {keys["late-entropy-source"]: cost})
    (tiny_copy.path / "report").mkdir()
    gate = tiny_copy.path / "report" / "table-gate.csv"
    gate.write_text("share_looked,map_mean\n0.0000,40.0000\n100.0000,70.0000\n")
    text = read(tiny_copy.path)
    section = text[text.index('<section id="cost"') : text.index('<section id="classes"')]
    assert section.count('class="plane"') == 2 and "1 late-entropy-source" in section and "0.250" in section
    assert "a &lt;machine&gt;" in section and 'data-gflop="8.5"' in text
    gate.write_text("nothing\n")
    with pytest.raises(DamagedError, match=r"table-gate\.csv.*writes it anew"):
        read(tiny_copy.path)


def test_the_page_holds_the_volumes_of_the_cache(tiny_copy):
    """Of every clip shown: its own context and focused volume, its own box, its own labels."""
    text = read(tiny_copy.path, num_clips=2)
    run = cache.open(tiny_copy.path)
    for video_id in re.findall(r"<h3>(\S+) <small>", text):
        card, context, focus = films(text, video_id)
        clip = int(re.search(r"<small>clip (\d)</small>", card).group(1))
        row = run.index[(run.index.video_id == video_id) & (run.index.clip_index == clip)].iloc[0]
        for film, stored in ((context, run.context(row.row)), (focus, run.focus(row.row))):
            assert film.shape == stored.shape
            right = np.abs(film.astype(int) - stored).mean()
            turned = np.abs(film.astype(int) - stored[:, :, ::-1]).mean()
            assert right < 6 and right < turned  # WebP loses a little
        left, top = (float(re.search(rf"--{edge}:([0-9.]+)", card).group(1)) for edge in "lt")
        assert (left * 28, top * 28) == pytest.approx((row.box_input_left, row.box_input_top), abs=1e-3)
        numbers = (row.box_source_height, row.box_source_width, row.source_height, row.source_width)
        assert "box {} \N{MULTIPLICATION SIGN} {} of {} \N{MULTIPLICATION SIGN} {}".format(*numbers) in card
        assert f'data-entropy="{row.entropy:.6f}"' in card and f'data-share="{row.saliency_share:.6f}"' in card
        stored = json.loads(html.unescape(re.search(r'data-labels="(.*?)">', card).group(1)))
        table = pd.read_csv(tiny_copy.path / "labels.csv", dtype=str)
        assert set(stored) == set(table.label[table.video_id == video_id])


def test_the_page_needs_no_other_file(tiny_copy):
    """No address but pictures inside it, no video, no weights, no network: all of them are away."""
    for path in tiny_copy.path.glob("models/*/*.pt"):
        path.unlink()
    text = read(tiny_copy.path)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text) and not re.findall(r"url\((?!data:)", text)
    assert "http" not in text and "@import" not in text
    for section in ("results", "classes", "clips", "boxes", "learning"):
        assert f'<section id="{section}"' in text
    assert 'id="missing"' not in text


def test_results_stand_with_their_protocol(tiny_copy):
    text = read(tiny_copy.path)
    table = pd.read_csv(tiny_copy.path / "results.csv")
    for _, row in table.iterrows():
        assert f'data-map="{row["map"]:.6f}"' in text and row.experiment in text
    assert "T_in 4 at 8 fps, shorter_side resize to 32, input 28, box 16, 2 clips, max over clips" in text
    annotations = read_plain(tiny_copy.path / "labels.csv", tiny_copy.path / "classes.txt")
    found = {one.name: one for one in scores.read_results(tiny_copy.path, annotations)}
    base, late = found["base"], found["late-entropy-source"]
    assert scores.base_of(late, list(found.values())) is base
    expected = scores.gain(late, base)
    assert f'data-gain="{expected.value:.6f}"' in text and expected.low <= expected.value <= expected.high


HOSTILE = ["<script>alert(1)</script>", "a & \"b\" 'c' </style>", "blue thing"]


def test_names_cannot_break_out(tiny_copy):
    """Classes and a run named like markup show as they are written."""
    (tiny_copy.path / "tables.json").unlink()  # nothing vouches for the tables that are written here
    for name in ("labels.csv", "classes.txt"):
        text = (tiny_copy.path / name).read_text()
        for old, new in zip(CLASSES, HOSTILE, strict=True):
            quoted = f'"{new.replace(chr(34), chr(34) * 2)}"' if name == "labels.csv" and new != old else new
            text = text.replace(old, quoted)
        (tiny_copy.path / name).write_text(text)
    for path in tiny_copy.path.glob("results/*.json"):  # scored with these classes, too
        facts, names = read_record(path), [f"{path.stem}.scores.txt", f"{path.stem}.per_class.csv"]
        scored, by_class = (read_recorded_file(path, name) for name in names)
        table = pd.read_csv(io.BytesIO(by_class)).assign(**{"class": HOSTILE}).to_csv(index=False).encode()
        write_record(path, facts, dict(zip(names, (scored, table), strict=True)))
    folder = tiny_copy.path.parent / "<img src=x>"
    shutil.move(tiny_copy.path, folder)
    text = read(folder)
    assert text.count("<script>") == 1 and text.count("</style>") == 1 and "<img src=x>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&lt;img src=x&gt;" in text
    stored = [html.unescape(one) for one in re.findall(r'data-labels="(.*?)">', text)]
    assert any(HOSTILE[0] in labels for labels in map(json.loads, stored))


def gone(run_dir, *patterns):
    for pattern in patterns:
        for path in list(run_dir.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("patterns", "words", "command", "sections"),
    [
        (["results*"], "No model was evaluated", "evaluate", {"clips", "boxes", "learning"}),
        (["results/late*", "results/concat*"], "No fusion model was evaluated", "train-fusion", {"clips", "boxes"}),
        (["results/base*"], "No result of Base", "evaluate", {"clips", "boxes"}),
        (["crops"], "No clip has its context and focused volume", "crops", {"classes", "boxes"}),
        (["context"], "No clip has its context and focused volume", "crops", {"classes", "boxes"}),
        (["crops", "boxes", "maps", "base", "context"], "No boxes are stored", "saliency", {"classes"}),
        (["models", "results*"], "No training has written metrics.csv", "train-base", {"clips"}),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(tiny_copy, patterns, words, command, sections):
    gone(tiny_copy.path, *patterns)
    text = read(tiny_copy.path)
    assert f"python -m pipeline {command} --config {tiny_copy.path / 'config.toml'} --run {tiny_copy.path}" in text
    assert words in text
    assert {name for name in sections if f'<section id="{name}"' in text} == sections


def test_a_rate_that_falls_in_every_epoch_has_no_dashed_lines(tiny_copy):
    """That of a cosine; one that is divided at an epoch has a line there, in each of the three models."""
    assert read(tiny_copy.path).count('class="drop"') == 3
    for folder in tiny_copy.path.glob("models/*"):
        history = pd.read_csv(folder / "metrics.csv").to_dict("records")
        rates = [0.05, 0.03, 0.01][: len(history)]
        write_metrics(folder, [row | {"learning_rate": rate} for row, rate in zip(history, rates, strict=True)])
    assert read(tiny_copy.path).count('class="drop"') == 1  # of the two epochs of Base, in which one looks as the other


def test_other_boxes_than_those_of_the_result_are_said(tiny_copy):
    """The result is of entropy boxes, whose crops are gone; those of the centre are there."""
    crops.run(tiny_copy.config, tiny_copy.path, ("center",))
    assert "are not stored, shown are" not in read(tiny_copy.path)
    for path in tiny_copy.path.glob("crops/*/run.json"):
        if json.loads(path.read_text())["settings"]["boxes"]["policy"] == "entropy":
            shutil.rmtree(path.parent)
    text = read(tiny_copy.path)
    assert "The crops entropy/source of late-entropy-source are not stored, shown are center/source." in text
    assert f"python -m pipeline crops --boxes entropy --pixels source --config {tiny_copy.path}" in text


def test_only_prepared_and_not_even_that(tiny_copy, tmp_path):
    gone(tiny_copy.path, "base", "maps", "boxes", "context", "crops", "models", "results*")
    assert '<section id="missing"' in read(tiny_copy.path)
    summary = page.run(tiny_copy.path).summary.splitlines()
    assert summary[0].startswith("0 results, 0 clips")
    assert summary[1].startswith("missing: No model was evaluated")
    assert summary[2].startswith(".venv/bin/python -m pipeline evaluate --config ")
    assert sum(line.startswith("missing: ") for line in summary) == 4  # results, curves, pictures, boxes
    with pytest.raises(StageError, match="has no plan"):
        page.run(tmp_path / "nowhere")


def test_training_clips_are_shown_where_there_are_no_others(tiny_copy):
    for path in tiny_copy.path.glob("crops/*/run.json"):
        if json.loads(path.read_text())["part"].endswith("test"):
            shutil.rmtree(path.parent)
    text = read(tiny_copy.path)
    assert "training clips are shown" in text and "augmentation 1" in text and "<h3>150E6 " in text


def test_the_boxes_of_the_experiment_are_shown(tiny_copy):
    """With several stores, and of two kinds of pixels: those of the result that is asked for."""
    for policies, pixels in ((("random", "center"), "source"), (("random",), "input")):
        crops.run(tiny_copy.config, tiny_copy.path, policies, pixels)
    train_fusion.run(tiny_copy.config, tiny_copy.path, "late", "random")
    runner = CliRunner()
    config = tiny_copy.path / "config.toml"
    done = runner.invoke(main, ["evaluate", "--config", str(config), "--run", str(tiny_copy.path)])
    assert done.exit_code == 0, done.output
    done = runner.invoke(main, ["report", "--run", str(tiny_copy.path), "--experiment", "late-random-source"])
    assert done.exit_code == 0 and "index.html: 4 results, 6 clips, " in done.output
    text = (tiny_copy.path / "report/index.html").read_text(encoding="utf-8")
    assert chosen_stores.open_sources(tiny_copy.path).stores["crops"].name == "entropy/source"
    run = cache.open(tiny_copy.path, crops="random/source", maps="entropy")
    card, _, focus = films(text, "T0003")
    clip = int(re.search(r"<small>clip (\d)</small>", card).group(1))
    row = run.index[(run.index.video_id == "T0003") & (run.index.clip_index == clip)].row.item()
    assert np.abs(focus.astype(int) - run.focus(row)).mean() < 6
    assert 'class="veil"' not in card  # boxes without saliency
    assert len(re.findall(r'<figure class="map">', text)) == 3 and "<h3>Overlap</h3>" in text
    stores = {one.name: one for one in chosen_stores.all_boxes(tiny_copy.path, "test")}
    expected = box_maps.overlap(stores["center"], stores["entropy"])
    assert set(stores) == {"center", "entropy", "random"} and f"<td>{expected.mean:.2f} " in text
    done = runner.invoke(main, ["report", "--run", str(tiny_copy.path), "--experiment", "nothing"])
    assert done.exit_code == 4 and "there are: " in done.output


def test_damage_is_refused_not_drawn(tiny_copy):
    (path,) = [
        path for path in tiny_copy.path.glob("crops/*/volumes/000001-*.h5")
        if json.loads((path.parents[1] / "run.json").read_text())["part"].endswith("test")
    ]  # fmt: skip
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(CacheError):
        page.run(tiny_copy.path)


def test_only_the_volumes_of_the_clips_shown_are_read(tiny_copy, monkeypatch):
    read_rows = []
    original = cache.reader.Run.context
    monkeypatch.setattr(cache.reader.Run, "context", lambda run, row: read_rows.append(row) or original(run, row))
    page.run(tiny_copy.path, num_clips=2)
    assert len(read_rows) == 2


def test_numbers_for_people():
    assert page._signed(-0.0123) == "\N{MINUS SIGN}1.2" and page._signed(0.5) == "+50.0"
    assert page._percent(None) == page._signed(float("nan")) == "\N{EN DASH}"
    assert page._duration(5.04) == "5.0 s" and page._duration(61) == "1 min 1 s" and page._duration(3720) == "1 h 2 min"


def test_a_clip_without_base_has_no_changes():
    assert gallery.score_changes(None, None, ["a"], "v0") == []
    names, change = ["first", "second"], gallery.ScoreChange
    found = gallery.score_changes(LATE, BASE, names, "v1")
    assert found == [change("second", 0.8, 0.8, True), change("first", 0.4, 0.4, False)]
    assert gallery.score_changes(LATE, BASE, names, "unknown") == []
    many = SimpleNamespace(ids=("v",), probabilities=np.zeros((1, 9)), targets=np.array([[0] * 8 + [1]]))
    moved = SimpleNamespace(probabilities=np.array([[0, 0.1, 0.2, -0.3, 0, 0, 0, 0, 0.01]]))
    shown = gallery.score_changes(many, moved, list("abcdefghi"), "v")
    assert [one.name for one in shown][:4] == ["i", "d", "c", "b"] and len(shown) == gallery.MOST_CLASSES
