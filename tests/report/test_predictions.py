"""The page of a predictions folder, and what the browser makes of it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.errors import StageError
from pipeline.predict import run as command
from pipeline.predict.passes import WindowRule
from pipeline.predict.tables import Report
from pipeline.report import charts, predictions
from tests.report import test_browser as browsers
from tests.report.test_browser import browser  # noqa: F401

TEST = ["83654", "T0002", "T0003"]


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    """Predictions of three videos with films, by Base, from 0.3 on."""
    out = tmp_path_factory.mktemp("predicted") / "found"
    experiment = command.Experiment(tiny_run.path, "base", device="cpu")
    places = [tiny_run.data / f"{one}.mp4" for one in TEST]
    command.run(experiment, places, out, WindowRule(), Report(threshold="0.3"), command.Workers(), films=True)
    return out


def test_report_and_show_take_the_folder(folder):
    for arguments, name in ((["report"], "index"), (["show", "T0002"], "T0002")):
        result = CliRunner().invoke(main, [*arguments, "--run", str(folder)])
        assert result.exit_code == 0, result.output
        content = (folder / "report" / f"{name}.html").read_text()
        assert content.count('<section class="video"') == (3 if name == "index" else 1)
        assert "../films/T0002.mp4" in content and "red thing" in content and "input 28" in content
    with pytest.raises(StageError, match="no predictions of 'T0009'; it has 3 videos, such as T000"):
        predictions.run(folder, "T0009")


def test_a_lane_by_hand():
    """Two seconds; the score is 0.25, then 1, and a segment goes from 1 to 2 s."""
    drawn = charts.lane(np.array([0.0, 1.0, 2.0]), np.array([0.25, 1.0]), [(1.0, 2.0)], 0.5, 2.0)
    assert 'points="0,36 0.0,27.0 320.0,27.0 320.0,0.0 640.0,0.0 640,36"' in drawn
    assert '<rect class="segment" x="320.0" width="320.0"' in drawn and 'y1="18.0" y2="18.0"' in drawn
    boxes = charts.boxes_over_time(np.array([[10, 20, 30, 40]]), (120, 240))
    assert 'x="20.0" y="10.0" width="40.0" height="30.0" opacity="1.00"' in boxes and 'viewBox="0 0 240 120"' in boxes


def test_nothing_of_a_name_reaches_the_page_unescaped(folder, tmp_path, monkeypatch):
    facts = json.loads((folder / "predictions.json").read_text())
    monkeypatch.setattr(predictions, "read_facts", lambda _: facts | {"experiment": "<script>alert(1)</script>"})
    (tmp_path / "page.html").write_text("<title>mine: predictions</title >")
    with pytest.raises(StageError, match=r"page.html is there already, and report did not write it; use another"):
        predictions.run(folder, out=tmp_path / "page.html")
    (tmp_path / "page.html").unlink()
    content = predictions.run(folder, out=tmp_path / "page.html").path.read_text()
    assert predictions.run(folder, out=tmp_path / "page.html").path.read_text() == content  # its own is replaced
    assert "<script>alert" not in content and "&lt;script&gt;alert(1)" in content


@browsers.pytestmark
@pytest.mark.parametrize("width", [browsers.PHONE, browsers.DESK])
def test_in_the_browser(browser, folder, width):  # noqa: F811
    path = predictions.run(folder).path
    browsers.opened(browser, path, width)
    assert browsers.texts(browser, "h1") == ["found"] and browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"}
    films = {(folder / "films" / f"{one}.mp4").as_uri() for one in TEST}
    assert {url for url in asked if not url.startswith("data:")} <= {path.as_uri(), *films}
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth == {root}.clientWidth && innerWidth") == width
    assert len(browsers.texts(browser, ".lanes tr")) == 9
    places = "const r = e.getBoundingClientRect(); return [r.left, r.width]"
    left, wide = browser.execute_script(f"const e = document.querySelector('svg.lane'); {places}")
    click = "e.dispatchEvent(new MouseEvent('click', {clientX: arguments[0], bubbles: true}))"
    browser.execute_script(f"const e = document.querySelector('svg.lane'); {click}", left + wide / 2)
    at, seconds = browser.execute_script("const s = document.querySelector('.video').dataset; return [s.at, s.seconds]")
    assert float(at) == pytest.approx(float(seconds) / 2, abs=0.01)
    assert browser.execute_script("return document.querySelector('video') !== null")
