"""Ids as people have them, and files in folders, through all stages, predict and report."""

import pandas as pd
import pytest
from click.testing import CliRunner

import cache
from pipeline.cli.main import main
from pipeline.data.video.find import file_name, id_of, is_plain_id
from pipeline.report import page, show
from pipeline.run.results import read_result
from pipeline.stages import evaluate, prepare
from tests.helpers.tiny_data import CLASSES, make_video, run_to_crops, tiny_config

# id: the tiny video that it is, its split, and the path of its file where the table has it
IDS = {
    "two words": ("07E49", "train", ""),
    "50%20": ("150E6", "train", ""),
    "-_x": ("00007", "train", "P 01/#1 é.mp4"),
    "#1": ("83654", "test", ""),
    "Häuser_3": ("T0002", "test", ""),
    "_YouTube-": ("T0003", "test", "P 01/deep/-v%.mp4"),
}


@pytest.mark.parametrize("video_id", [*IDS, "a%20b", "a b", "a%b", "ÄÖ", "ÄÖ".lower()])
def test_names_of_files_are_one_to_one(video_id):
    name = file_name(video_id)
    assert is_plain_id(video_id) and id_of(name) == video_id
    assert name.isascii() and not set(name) & set("/ #")


def test_ids_through_all_stages(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    lines = ["video_id,split,start,end,label,path"]
    for number, (video_id, (source, split, path)) in enumerate(IDS.items()):
        place = data / (path or f"{video_id}.mp4")
        place.parent.mkdir(parents=True, exist_ok=True)
        make_video(data, source).rename(place)
        lines.append(f"{video_id},{split},,,{CLASSES[number % 3]},{path}")
    (data / "table.csv").write_text("\n".join(lines) + "\n")
    (data / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    config = tiny_config(data, base={"epochs": 1, "drop_epochs": ()}, name="ids")
    run_to_crops(config, run)
    evaluate.run(config, run)
    test = [one for one, (_, split, _) in IDS.items() if split == "test"]
    (result,) = (run / "results").glob("*.json")
    assert read_result(result)[1] == test
    table = pd.read_csv(run / "videos.csv", dtype=str)
    assert table.video_id.tolist() == list(IDS)
    assert table.path.tolist() == [path or f"{one}.mp4" for one, (_, _, path) in IDS.items()]
    assert set(cache.open(run).index.video_id) == set(IDS)
    for one in ("#1", "-_x"):
        show.run(run, one, out=tmp_path / "shown")
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == sorted(
        name for one in ("%231", "-_x") for name in (f"{one}.mp4", f"{one}.png")
    )
    page.run(run, 6, out=tmp_path / "page.html")
    assert "<h3>#1 " in (tmp_path / "page.html").read_text()
    out = tmp_path / "found"
    places = [str(data / f"{one}.mp4") for one in ("two words", "50%20", "#1")]
    predict = ["predict", "--experiment", "base", *places, "--run", str(run), "--out", str(out), "--films"]
    done = CliRunner().invoke(main, predict)
    assert done.exit_code == 0, done.output
    assert list(dict.fromkeys(pd.read_csv(out / "videos.csv", dtype=str).video_id)) == ["two words", "50%20", "#1"]
    assert {path.name for path in (out / "films").iterdir()} == {"two%20words.mp4", "50%2520.mp4", "%231.mp4"}
    assert CliRunner().invoke(main, ["report", "--run", str(out)]).exit_code == 0
    html = (out / "report" / "index.html").read_text()
    assert 'src="../films/two%2520words.mp4"' in html and "<h2>#1 " in html
    again = CliRunner().invoke(main, predict)
    assert "0 windows now" in again.output, again.output
    assert prepare.run(config, run).num_skipped == 0
