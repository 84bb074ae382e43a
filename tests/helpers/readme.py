"""The project's READMEs: their blocks of code, and their commands, which are checked without being run."""

import configparser
import importlib
import re
import shlex
from pathlib import Path

import click

from pipeline.cli.main import main
from pipeline.config_file import CONFIGS, load

ROOT = Path(__file__).parents[2]
FOLDERS = [folder for folder in ROOT.iterdir() if folder.is_dir() and folder.name[0] != "." and folder.name != "runs"]
PAGES = ["README.md", "pipeline/recipes/PAPER.md"]
PAGES += sorted(str(page.relative_to(ROOT)) for top in FOLDERS for page in top.rglob("README.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ELSEWHERE = ("aws", "dask", "rm", "tensorboard")  # programs of others
STARTS = ("make ", "python ", ".venv/bin/", "focused-attention ", "torchrun ", "pip ")


def text_of(page: str) -> str:
    """A README, by its path from the project's root."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code of one language, such as "sh", in order."""
    return [code for found, code in BLOCK.findall(text) if found == language]


def commands(text: str) -> list[str]:
    """Every command of a page: the lines of its shell blocks, and what stands in backticks and starts like one."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    quoted = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]
    return [line for line in lines if line.strip()] + [words for words in quoted if words.startswith(STARTS)]


def make_calls(lines: str) -> list[list[str]]:
    """Lines of make as arguments of our command line, one list a target, as the Makefile makes them."""
    found = []
    for line in lines.splitlines():
        make, *words = shlex.split(line)
        assert make == "make"
        given = dict(word.split("=", 1) for word in words if re.match("[A-Z]+=", word))
        run = given.get("RUN", f"runs/{Path(given.get('CONFIG', 'miniature')).stem}")
        for target in (word for word in words if not re.match("[A-Z]+=", word)):
            takes_config = any("--config" in option.opts for option in main.commands[target].params)
            takes_run = any("--run" in option.opts for option in main.commands[target].params)
            common = ["--config", given["CONFIG"]] if takes_config else []
            common += ["--run", run] * takes_run
            found.append([target, *common, *shlex.split(given.get("ARGS", ""))])
    return found


def check(command: str, own_videos: set[str]) -> None:
    """Raise where a command of a README could not work: a target, option, value, file or video that does not exist.

    Args:
        command: a line of shell.
        own_videos: ids that the page's reader has; besides, there are those of the miniature.
    """
    words = shlex.split(re.sub(r"\$\w+", "1", command), comments=True)
    words = words[: words.index(">")] if ">" in words else words
    match words:
        case []:  # a line of comment
            pass
        case ["make", *rest]:
            _check_make(rest, own_videos)
        case ["python" | ".venv/bin/python", "-m", module, *rest]:
            _check_module(module, rest, own_videos)
        case ["python" | ".venv/bin/python", "-c", code]:
            compile(code, "README.md", "exec")
        case [".venv/bin/focused-attention" | "focused-attention", *rest]:
            _check_module("pipeline", rest, own_videos)
        case ["torchrun", *rest]:
            where = rest.index("--")  # without it, torchrun takes our options for its own
            assert rest[where - 1] == "-m", command
            _check_module(rest[where + 1], rest[where + 2 :], own_videos)
        case ["pip", "install", "-e", place]:
            setup = configparser.ConfigParser()
            setup.read(ROOT / "setup.cfg")
            assert set(re.findall(r"\w+", place)) <= set(setup["options.extras_require"]), command
        case [".ci/run"]:
            pass
        case _:
            assert words[0] in ELSEWHERE, f"no test knows how to check: {command}"


def _check_make(words: list[str], own_videos: set[str]) -> None:
    """Put the values of the line into the recipes of its targets, and check what they call."""
    recipes = dict(re.findall(r"^([a-z0-9-]+):.*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    given = dict(word.split("=", 1) for word in words if re.match("[A-Z]+=", word))
    assert given.keys() <= {"CONFIG", "RUN", "ARGS"}, words
    values = {"CONFIG": "miniature", "RUN": "runs/miniature", "ARGS": "", "BIN": ".venv/bin"} | given
    for target in (word for word in words if not re.match("[A-Z]+=", word)):
        assert target in recipes, f"make has no target {target}"
        stage = r".venv/bin/python -m pipeline \1 --config $(CONFIG) --run $(RUN) $(ARGS)"
        recipe = re.sub(r"\$\(call STAGE,(.*)\)", stage, recipes[target])
        recipe = re.sub(r"\$\(([A-Z]+)\)", lambda name: values.get(name[1], ""), recipe)
        called = re.findall(r"^\t(\.venv/bin/python -m (?:pipeline|benchmarks|pytest).*)", recipe, re.MULTILINE)
        assert called or "ARGS" not in given, f"make {target} takes no ARGS"
        for line in called:
            check(line, own_videos)


def _check_module(module: str, words: list[str], own_videos: set[str]) -> None:
    """Let click read the words as it would, without doing what they ask for."""
    if module == "pytest":
        missing = [word for word in words if word.startswith("tests/") and not (ROOT / word.split("::")[0]).exists()]
        assert not missing, missing
        return
    assert module.split(".")[0] in ("pipeline", "benchmarks"), module
    if module == "pipeline":
        command, words = (main.commands[words[0]], words[1:]) if words and words[0][0] != "-" else (main, words)
    else:
        command = importlib.import_module("benchmarks.__main__" if module == "benchmarks" else module).main
    try:
        given = command.make_context(module, list(words)).params
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):  # --help, or the bare group
        return
    if config := given.get("config_name"):
        known = (CONFIGS / f"{config}.toml").exists()
        assert known or config.endswith(".toml"), config
        load(config if known else "miniature", given.get("overrides", ()))
    ids = {given["video_id"]} if "video_id" in given else set(filter(None, (given.get("eval_ids") or "").split(",")))
    assert ids <= _miniature_ids() | own_videos, f"no such video: {ids}"


def _miniature_ids() -> set[str]:
    data = load("miniature").data
    counts = {"TRAIN": data.train_videos, "TEST": data.eval_videos}
    return {f"{split}{number:05d}" for split, count in counts.items() for number in range(count)}
