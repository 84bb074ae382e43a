"""Does it pay? The sentence by hand, on a tiny run, and on worlds whose answer is known."""

import csv

import numpy as np
import pytest

from pipeline.config import FusionTraining
from pipeline.config_file import load
from pipeline.data.plain_csv import read_plain
from pipeline.errors import AnnotationError, StageError
from pipeline.metrics import Scored
from pipeline.recipes import table_box, worth_it
from pipeline.recipes.study import Result
from pipeline.recipes.worth_it import answer, shorter
from tests.helpers.tiny_data import VIDEOS, change

SIZES = np.array([137.0, 241, 272, 480])
SPREAD = np.repeat([-0.01, 0.01], 50)  # over resamples: an interval of two points


def found(**values):
    """Results of one seed, whose differences are those of the values, give or take a point."""
    values = dict.fromkeys(("center", "motion"), 0.0) | values
    wobble = {"source": SPREAD}
    return {name: {0: Result({}, Scored(one, one + wobble.get(name, 0)))} for name, one in values.items()}


def test_both_pay():
    text = answer(found(base=0.5, repeat=0.52, upscaled=0.55, source=0.6), SIZES, 32, "points")
    assert text == "The second look pays +8.0 [7.0, 9.0] points, resolution pays +5.0 [4.0, 6.0] of it."


def test_resolution_does_not_pay():
    results = found(base=0.5, repeat=0.52, upscaled=0.598, source=0.6)
    text = answer(results, SIZES, 128, "points")
    assert text == (
        "The second look pays +8.0 [7.0, 9.0] points; resolution does not pay here: +0.2 [-0.8, 1.2], "
        "because boxes cover 137 × 241 of 272 × 480 source pixels."  # noqa: RUF001
    )
    assert "though boxes cover" in answer(results, SIZES, 64, "points")  # twice as large: there is more to see


def test_nothing_pays_but_the_centre_does():
    text = answer(found(base=0.5, repeat=0.6, upscaled=0.61, source=0.605, center=0.65), SIZES, 128, "points")
    assert text.startswith("The second look does not pay here: +0.5 [-0.5, 1.5] points; resolution does not pay here: ")
    assert text.endswith(" Boxes by center do better than the gradient's: +4.5 [3.5, 5.5].")


def test_shorter_by_hand():
    recipe = FusionTraining(epochs=24, drop_epochs=(16, 22), warmup_epochs=3)
    half = shorter(recipe, 8000, None)  # of 1,000 steps
    assert (half.epochs, half.drop_epochs, half.warmup_epochs) == (12, (8, 11), 1)
    assert shorter(recipe, 8000, 4).drop_epochs == (3, 4)
    assert shorter(FusionTraining(epochs=25), 8000, None).epochs == 13
    assert [shorter(recipe, number, None).epochs for number in (240, 239, 33)] == [17, 17, 24]  # 500 steps of 8 videos
    untrained = load("charades-released").base
    assert shorter(untrained, 8000, 3) == untrained and not untrained.epochs


def test_of_a_tiny_run(tiny_copy, monkeypatch):
    """The evaluation videos take no part; every row is trained once, and its cost stands beside it."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(table_box, "held_out", lambda video_id: video_id in ("150E6", "07E49"))
    table, head = tiny_copy.path.with_name("own.csv"), "video_id,start,end,top,left,height,width,score\n"
    lines = {name: f"{name},0.25,{number + 7}.0,1,2,{number + 3},4,0.5\n" for number, name in enumerate(VIDEOS)}
    table.write_text(head + "".join(lines.values()))
    config = change(tiny_copy.config, saliency={"own_boxes": str(table)})
    outcome = worth_it.worth_it(config, tiny_copy.path, num_seeds=1, share=1.0, epochs=1)
    folder = tiny_copy.path.with_name("run-worth")
    kept = "".join(line for name, line in lines.items() if VIDEOS[name][0] == "train")
    assert (folder / "own_boxes.csv").read_text() == head + kept
    videos = read_plain(folder / "labels.csv", folder / "classes.txt").videos
    assert {VIDEOS[name][0] for name in videos.video_id} == {"train"} and len(videos) == 4
    with (tiny_copy.path / "report" / "worth-it.csv").open(newline="") as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["base", "repeat", "upscaled", "source", "center", "motion", "own"]
    assert all(line["num_seeds"] == "1" and float(line["gflop"]) > 0 for line in lines.values())
    assert lines["base"]["delta_base"] == "" and float(lines["base"]["delta_repeat"]) == pytest.approx(
        -float(lines["repeat"]["delta_base"])
    )
    text = (tiny_copy.path / "report" / "worth-it.md").read_text()
    assert outcome.summary in text and "2 held-out videos" in text and "A video costs" in text
    monkeypatch.setattr(table_box, "in_share", lambda video_id, share: False)
    with pytest.raises(StageError, match=r"none of its 0; a larger --share takes more"):
        worth_it.worth_it(tiny_copy.config, tiny_copy.path, share=0.5)
    monkeypatch.setattr(table_box, "in_share", lambda video_id, share: True)
    table.write_text(head + "nobody,0,1,0,0,1,1,1\n")
    with pytest.raises(AnnotationError, match=r"own.csv, line 2, column video_id: 'nobody'; expected a video of the"):
        worth_it.worth_it(config, tiny_copy.path, share=1.0)


@pytest.mark.full
@pytest.mark.parametrize(("world", "pays"), [("cards", True), ("plain", False)])
def test_the_answer_is_known(world, pays, tmp_path, monkeypatch):
    """Yes where only source pixels show the print, no where the input shows it: make test ARGS="-n 0 --full ..."."""
    monkeypatch.chdir(tmp_path)
    counts = ("data.train_videos=400", "data.eval_videos=2")
    config = load("miniature", (f"data.world={world}", *counts))
    text = worth_it.worth_it(config, tmp_path / "run", 1, share=1.0).summary
    assert ("resolution pays" in text) == pays and ("resolution does not pay here" in text) != pays, text
    assert text.startswith("The second look pays") or not pays
