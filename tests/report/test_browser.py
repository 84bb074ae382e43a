"""The report in Debian's chromium, headless: no requests, sorting, filtering, films that move, a phone's width."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.report import page
from pipeline.stages import crops
from tests.helpers.tiny_data import CLASSES

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver (Debian: chromium-driver)"
)
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def written(tiny_run, tmp_path_factory) -> Path:
    """The page of the tiny run with boxes of three kinds, alone in a folder."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(tiny_run.path, folder / "run")
    crops.run(tiny_run.config, folder / "run", ("random", "center"))
    path = page.run(folder / "run").path
    shutil.move(path, folder / "page.html")
    shutil.rmtree(folder / "run")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser():
    """Chromium with its log of requests and of what pages print."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def media(browser, **features):
    chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": chosen})


def opened(browser, path, width=DESK):
    """Load the page at a width; drop what was logged before."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())
    return browser


SEEN = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent)"


def texts(browser, selector):
    """Of what is seen, in the order of the page."""
    return browser.execute_script(f"{SEEN}.map(e => e.textContent.trim())", selector)


def values(browser, selector, key):
    """Numbers that cells or cards are sorted by."""
    return [float(text) for text in browser.execute_script(f"{SEEN}.map(e => e.dataset[arguments[1]])", selector, key)]


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def enter(browser, selector, value, event="change"):
    """Give an input a value as a person would."""
    script = "e.value = arguments[1]; e.dispatchEvent(new Event(arguments[2]))"
    browser.execute_script(f"const e = document.querySelector(arguments[0]); {script}", selector, value, event)


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_asked_and_nothing_goes_wrong(browser, written, width, scheme):
    media(browser, prefers_color_scheme=scheme)
    opened(browser, written, width)
    assert texts(browser, "h1") == ["run"]
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]
    assert sum(url.startswith("data:image/webp") for url in asked) >= 6  # the log does see requests
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth == {root}.clientWidth && innerWidth") == width
    colours = browser.execute_script(f"const s = getComputedStyle({root}); return [s.backgroundColor, s.color]")
    light = [sum(map(int, re.findall(r"[0-9]+", colour)[:3])) for colour in colours]
    assert (light[0] > light[1]) == (scheme == "light")


def test_every_picture_is_there(browser, written):
    opened(browser, written)
    loaded = "[...document.images].map(image => image.decode().then(() => image.naturalWidth))"
    widths = browser.execute_async_script(f"const done = arguments[0]; Promise.all({loaded}).then(done)")
    assert len(widths) == 6 + 3 and set(widths) == {28}
    assert browser.execute_script("return [...document.images].every(image => image.hasAttribute('alt'))")


def test_tables_sort_by_any_column(browser, written):
    opened(browser, written)
    table, first = "#by-class tbody:not([hidden]) td[data-gain]", "#by-class thead [data-key=gain]"
    found = values(browser, table, "gain")
    assert len(found) == 3 and found == sorted(found, reverse=True)
    names = texts(browser, "#by-class tbody:not([hidden]) th")
    click(browser, first)
    assert values(browser, table, "gain") == sorted(found)
    click(browser, "#by-class thead [data-key=name]")
    assert texts(browser, "#by-class tbody:not([hidden]) th") == sorted(names) != names
    state = "return [...document.querySelectorAll('#by-class [aria-sort]')].map(e => [e.textContent, e.ariaSort])"
    assert browser.execute_script(state) == [["Class", "ascending"]]
    click(browser, "#results thead [data-key=map]")
    maps = values(browser, "#results td[data-map]", "map")
    assert len(maps) == 3 and maps == sorted(maps, reverse=True)


def test_another_model_and_a_part_of_a_name(browser, written):
    opened(browser, written)
    before = values(browser, "#by-class td[data-gain]", "gain")
    enter(browser, "#model", "1")
    assert values(browser, "#by-class td[data-gain]", "gain") != before
    enter(browser, "#find", "GREEN", "input")
    assert texts(browser, "#by-class tbody th") == ["green thing"]


def test_clips_sort_and_filter(browser, written):
    opened(browser, written)
    orders = []
    for key in ("gain", "entropy", "share"):
        for sign in (-1, 1):
            enter(browser, "#order", f"{key}:{sign}")
            found = values(browser, ".card", key)
            assert found == sorted(found, reverse=sign < 0) and len(found) == 6
            orders.append(texts(browser, ".card h3"))
    assert len({tuple(order) for order in orders}) > 3
    enter(browser, "#class", CLASSES[1])
    assert {name.split()[0] for name in texts(browser, ".card h3")} == {"83654"}
    assert texts(browser, "#count") == ["2 of 6 clips"]
    enter(browser, "#class", "")
    assert texts(browser, "#count") == ["6 of 6 clips"]


def picture(browser):
    """The films of the first card as they are seen, uint8 (H, W, 3)."""
    import io

    from PIL import Image
    from selenium.webdriver.common.by import By

    element = browser.find_element(By.CSS_SELECTOR, ".card .films")
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")).astype(int)


def frame(browser):
    return int(browser.execute_script("return document.querySelector('#gallery').dataset.frame"))


def test_films_move_unless_that_is_not_wanted(browser, written):
    from selenium.webdriver.support.wait import WebDriverWait

    media(browser, prefers_reduced_motion="no-preference")
    opened(browser, written)
    before = frame(browser)
    WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: frame(browser) != before)
    click(browser, "#play")  # pause
    assert texts(browser, "#play") == ["Play"]
    seen = []
    for number in ("0", "3"):
        enter(browser, "#frame", number, "input")
        assert frame(browser) == int(number)
        seen.append(picture(browser))
    assert np.abs(seen[0] - seen[1]).max() > 60  # the patch moves by a pixel or two of the source
    media(browser, prefers_reduced_motion="reduce")
    opened(browser, written)
    assert texts(browser, "#play") == ["Play"] and frame(browser) == 0
    click(browser, "#play")
    WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: frame(browser) == 3)


def test_saliency_and_box_can_be_hidden(browser, written):
    media(browser, prefers_reduced_motion="reduce")
    opened(browser, written)
    both = picture(browser)
    click(browser, "#veil")
    without_veil = picture(browser)
    click(browser, "#outline")
    bare = picture(browser)
    third = both.shape[1] // 3
    for a, b in ((both, without_veil), (without_veil, bare)):
        changed = np.abs(a - b).max(-1) > 20
        assert changed[:, :third].any() and not changed[:, third + 8 :].any()


def drawn(browser):
    """Of each card its heading and its boxes, as outlined and as enlarged: (left, top, width, height) / the input's."""
    script = """
    const share = (e, input) => {
      const [a, b] = [e, input].map(one => one.getBoundingClientRect());
      return [(a.left - b.left) / b.width, (a.top - b.top) / b.height, a.width / b.width, a.height / b.height];
    };
    return [...document.querySelectorAll('.card')].map(card => {
      const [outlines, near] = ['.outline', '.near'].map(kind => [...card.querySelectorAll(kind)]);
      return [card.querySelector('h3').textContent, outlines.map(e => share(e, e.closest('.view'))),
              near.map(e => share(e.closest('.view'), e))];
    });"""
    return browser.execute_script(script)


def assert_drawn(browser, run, of_frame=slice(None)):
    """The boxes of each card, or one of them, are outlined and enlarged where the cache of 28 x 28 pixels has them."""
    found = drawn(browser)
    for name, *places in found:
        video_id, _, clip = name.split()
        row = run.index[(run.index.video_id == video_id) & (run.index.clip_index == int(clip))].row.item()
        sides = [f"box_input_{side}" for side in ("left", "top", "width", "height")]
        expected = np.atleast_2d((run.boxes(row)[sides].to_numpy() / 28)[of_frame])
        for kind in places:
            np.testing.assert_allclose(kind, expected, atol=0.01)  # less than a third of a pixel of the input
    return len(found)


def test_a_box_is_outlined_and_enlarged_where_it_is(browser, written, tiny_run):
    import cache

    media(browser, prefers_reduced_motion="reduce")
    for width in (PHONE, DESK):
        opened(browser, written, width)
        assert assert_drawn(browser, cache.open(tiny_run.path)) == 6


def test_the_keyboard_reaches_everything(browser, written):
    """Headings are buttons that keys press; wide tables can be scrolled by keys."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    opened(browser, written)
    button = browser.find_element(By.CSS_SELECTOR, "#by-class thead [data-key=name]")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    names = texts(browser, "#by-class tbody:not([hidden]) th")
    assert names == sorted(names)
    reached = "[...document.querySelectorAll('.wide')].every(e => e.tabIndex === 0 && e.ariaLabel)"
    assert browser.execute_script(f"return {reached}")
    unnamed = "return [...document.querySelectorAll('select, input')].filter(e => !e.labels.length).length"
    assert browser.execute_script(unnamed) == 0
