"""Own data in ten minutes: the steps of pipeline/data/README.md, followed to the letter with five invented videos."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import cache
from pipeline.cli.main import main
from tests.helpers.make_video import write_video
from tests.helpers.readme import blocks, make_calls, text_of

COLOURS = {"pouring": (210, 60, 40), "stirring": (40, 80, 210)}


def _page() -> str:
    text = text_of("pipeline/data/README.md")
    start = text.index("## Your own videos")
    return text[start : text.index("\n## ", start)]


def _block(language: str) -> str:
    """The page's first block of a language; of the shell the last, those before convert."""
    return blocks(_page(), language)[-1 if language == "sh" else 0]


def _convert(number: int) -> str:
    """Follow the page's command that converts, by its number, and then `prepare`; return what both printed."""
    (convert,) = make_calls(blocks(_page(), "sh")[number])
    prepare = next(arguments for arguments in make_calls(_block("sh")) if arguments[0] == "prepare")
    printed = ""
    for arguments in (convert, prepare):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        printed += result.output
    return printed


def _video(path: Path, number: int, labels: set[str]) -> None:
    """Four seconds in which a patch in the colour of each label wanders about, 120 x 160 pixels."""
    frames = []
    for time in range(32):
        frame = np.full((120, 160, 3), 90 + 10 * number, np.uint8)
        for place, label in enumerate(sorted(labels)):
            top, left = 10 + 60 * place + time // 2, 5 + 3 * time
            frame[top : top + 30, left : left + 40] = COLOURS[label]
        frames.append(frame)
    write_video(path, frames, fps=8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder as it is before step 5 of the page."""
    (tmp_path / "mine/videos").mkdir(parents=True)
    (tmp_path / "mine/labels.csv").write_text(_block("csv"))
    (tmp_path / "mine/classes.txt").write_text(_block("text"))
    (tmp_path / "mine.toml").write_text(_block("toml"))
    table = pd.read_csv(tmp_path / "mine/labels.csv", keep_default_na=False)
    for number, (video_id, rows) in enumerate(table.groupby("video_id")):
        _video(tmp_path / f"mine/videos/{video_id}.mp4", number, set(rows.label) - {""})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_leads_from_nothing_to_a_report(folder):
    outputs = {}
    for arguments in make_calls(_block("sh")):
        arguments = [*arguments, "--seconds", "5"] if arguments[0] == "plan" else arguments
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        outputs[arguments[0]] = result.output
    assert set(outputs) == {
        *(
            "plan",
            "prepare",
            "train-base",
            "saliency",
            "crops",
            "train-fusion",
            "evaluate",
            "inspect",
            "report",
            "predict",
        )
    }
    assert "3 train videos x 2, 2 test videos x 3" in outputs["plan"]
    assert "5 videos (3 train, 2 test)" in outputs["prepare"]
    assert re.search(r"pouring +1 +1 +2 +2.5", outputs["inspect"])  # one video of each split, 2 actions of 2.5 s
    run = cache.open("runs/mine")
    assert run.num_rows == 3 * 2 + 2 * 3 and run.index.crop_done.all()
    results = pd.read_csv("runs/mine/results.csv")
    assert sorted(results.experiment) == ["base", "concat-entropy-source", "late-entropy-source"]
    found = pd.read_csv("mine/found/videos.csv")
    assert sorted(set(found.video_id)) == [f"kitchen0{number}" for number in range(1, 6)]
    assert set(found.label) == {"pouring", "stirring"} and (folder / "mine/found/films/kitchen03.mp4").is_file()
    page = (folder / "runs/mine/report/index.html").read_text(encoding="utf-8")
    assert "pouring" in page and "kitchen04" in page


def test_what_the_page_says_about_mistakes_is_so(folder):
    prepare = next(arguments for arguments in make_calls(_block("sh")) if arguments[0] == "prepare")
    table = folder / "mine/labels.csv"
    table.write_text(table.read_text().replace("kitchen02,train,,,stirring", "kitchen02,train,,,stiring"))
    result = CliRunner().invoke(main, prepare)
    assert result.exit_code == 4
    for word in ("mine/labels.csv", "line 4", "column label", "'stiring'"):
        assert word in result.output
    table.write_text(_block("csv"))
    (folder / "mine/videos/kitchen05.mp4").unlink()
    result = CliRunner().invoke(main, [*prepare, "--set", "data.missing_videos=skip"])
    assert result.exit_code == 0
    (line,) = (folder / "runs/mine/skipped.csv").read_text().splitlines()[1:]
    assert line.startswith("kitchen05,test,VideoMissing") and "no kitchen05.<mp4|mkv" in line


def test_the_way_in_by_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("pouring/a", "pouring/b", "stirring/a", "stirring/d")):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        _video(tmp_path / f"clips/{name}.mp4", number, {name.split("/")[0]})
    Path("mine.toml").write_text(_block("toml"))
    printed = _convert(0)
    assert (
        "2 of 4 videos, by a hash of their ids, are test" in printed
        and "4 of 4 videos linked into mine/videos" in printed
    )
    assert "4 videos (2 train, 2 test)" in printed
    videos = pd.read_csv("runs/mine/videos.csv")
    assert sorted(videos.path) == ["b.mp4", "d.mp4", "pouring_a.mp4", "stirring_a.mp4"]
    labels = pd.read_csv("runs/mine/labels.csv").set_index("video_id").label
    assert labels.to_dict() == {"pouring_a": "pouring", "b": "pouring", "stirring_a": "stirring", "d": "stirring"}


def test_the_way_in_by_a_converter(folder):
    for name in ("labels.csv", "classes.txt"):
        (folder / "mine" / name).unlink()
    (folder / "theirs.json").write_text(_block("json"))
    (line,) = re.findall("^Here .* step 4 .*: `(.*)`", _page(), re.MULTILINE)
    (folder / "mine.toml").write_text(_block("toml").replace("[data]\n", f"[data]\n{line}\n"))
    printed = _convert(1)
    assert "4 videos (3 train, 1 val), 3 labels of 2 classes" in printed and "4 videos (3 train, 1 test)" in printed
    assert pd.read_csv("runs/mine/labels.csv", keep_default_na=False).to_csv(index=False, lineterminator="\n") == (
        "video_id,split,start,end,label\nkitchen01,train,0,2.5,pouring\nkitchen02,train,1.5,4,stirring\n"
        "kitchen03,train,,,\nkitchen04,test,0.5,3,pouring\n"
    )
