"""The README says what is true: its snippet runs, its config loads, its commands and targets exist."""

import re
import tomllib
from pathlib import Path

from pipeline import config_file as configs
from pipeline.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_snippets_run(tiny_run, tmp_path, monkeypatch, capsys):
    """Against a run in the place that the README names."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/miniature").symlink_to(tiny_run.path)
    monkeypatch.chdir(tmp_path)
    for snippet in _blocks("python"):
        exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "saliency_share" in printed
    assert "(28, 28) (2, 3) (4, 28, 28, 3) (4, 28, 28, 3)" in printed
    assert re.search(r"red thing +1 +2 +0\.9 ", printed)  # classes by name, videos of training and evaluation
    assert "boxes left of the middle: " in printed


def test_the_table_of_commands_is_complete():
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(main.commands)


def test_make_has_every_target_that_the_readme_names():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in re.findall(r"`?make ([a-z0-9 -]+)", "\n".join(_blocks("sh"))):
        assert set(line.split()) <= targets, line
    assert set(main.commands) - {"compare-saliency"} <= targets


def test_the_config_for_real_work_is_one(tmp_path):
    _, toml = _blocks("toml")
    (tmp_path / "mine.toml").write_text(toml)
    config = configs.load(str(tmp_path / "mine.toml"))
    assert config.clips.num_frames == tomllib.loads(toml)["clips"]["num_frames"]
    assert config.base.network == "r2plus1d_18"


def test_the_arrays_it_describes_are_the_arrays_there_are(tiny_run):
    import h5py
    import zarr

    named = set(re.findall(r"^\|.*?\| `([a-z_0-9]+)` \| \(", README, re.MULTILINE))
    found = set()
    for product in ("base", "maps", "boxes"):
        for path in (tiny_run.path / product).glob("*/arrays.zarr"):
            found |= set(zarr.open_group(path, mode="r").array_keys())
    with h5py.File(next((tiny_run.path / "crops").glob("*/volumes/*.h5"))) as file:
        found |= set(file)
    assert named == found


def test_no_place_is_left_to_fill():
    assert not re.findall(r"@[A-Z]+@", README)
