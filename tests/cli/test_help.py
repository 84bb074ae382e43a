"""What a person reads when something is wrong: the nearest name, both numbers, the place; colours where they belong."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from models.backbones import build
from models.checkpoint import WeightsError
from pipeline.cli.main import main
from pipeline.config_file import load
from pipeline.errors import ConfigError, StageError
from pipeline.stages import prepare, train_base
from tests.helpers.tiny_data import change

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "override, words",
    [
        ("clips.num_frame=3", "unknown setting clips.num_frame; did you mean clips.num_frames?"),
        ("salience.box_side=3", "unknown setting salience; did you mean saliency?"),
        ("box_side=3", "unknown setting box_side; did you mean saliency.box_side?"),
        ("epochs=3", "did you mean base.epochs or fusion.epochs?"),
        ("saliency.aug_seeds=3", "unknown setting saliency.aug_seeds; did you mean clips.aug_seeds?"),
        ("zzz=3", "unknown setting zzz; known are name, data, clips,"),
        ("clips.fps=fast", "clips.fps: expected float, got 'fast'"),
        ("crops.codec=webp", "crops.codec: expected one of 'jpeg', 'png', got 'webp'"),
        ("clips=3", "clips: expected a section, got 3"),
        ("clips.fps", "--set clips.fps: expected section.key=value"),
    ],
)
def test_a_wrong_setting_is_told_the_right_one(override, words):
    with pytest.raises(ConfigError) as error:
        load("miniature", (override,))
    assert words in str(error.value)


def test_weights_with_another_head_say_which_has_which(trained, tmp_path):
    path = tmp_path / "kinetics.pth"
    torch.save(build("small_i3d", 7).state_dict(), path)
    config = change(trained.config, base={"init": str(path)})
    with pytest.raises(WeightsError) as error:
        train_base.run(config, trained.path)
    assert "the file has 7 classes, the network 3. With --new-head" in str(error.value)
    assert f"3 classes in {trained.path / 'classes.txt'}, from {config.data.classes}" in str(error.value)


@pytest.mark.parametrize("place", ["nowhere", ""])
def test_a_missing_video_root_says_what_was_looked_for(trained, tmp_path, place):
    config = change(trained.config, data={"videos": place and str(tmp_path / place)})
    with pytest.raises(StageError) as error:
        prepare.run(config, tmp_path / "run")
    assert f"data.videos: {tmp_path / place if place else '(empty)'} is not a folder" in str(error.value)
    assert "looked there for 07E49.<mp4|mkv|" in str(error.value) and "folder of frames 07E49/" in str(error.value)


def _on_a_terminal(*arguments: str, **env: str) -> bytes:
    """What a command prints on a terminal of its own."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "pipeline", *arguments]
    subprocess.run(command, cwd=ROOT, stdout=child, stderr=child, env=os.environ | env)
    os.close(child)
    printed = b""
    try:
        while piece := os.read(parent, 4096):
            printed += piece
    except OSError:  # the terminal was closed
        pass
    os.close(parent)
    return printed


def test_colours_on_a_terminal_only():
    wrong = ("prepare", "--set", "zzz=1")
    assert b"\x1b[31merror:" in _on_a_terminal(*wrong)
    assert b"\x1b[" not in (quiet := _on_a_terminal(*wrong, NO_COLOR="1")) and b"unknown setting zzz" in quiet
    piped = subprocess.run([sys.executable, "-m", "pipeline", *wrong], cwd=ROOT, capture_output=True)
    assert piped.stderr.startswith(b"error: ConfigError") and b"\x1b[" not in piped.stderr


def test_shell_completion_as_the_readme_says():
    text = (ROOT / "pipeline/cli/README.md").read_text(encoding="utf-8")
    assert "_FOCUSED_ATTENTION_COMPLETE=bash_source" in text
    start = "from pipeline.cli.main import main; main(prog_name='focused-attention')"

    def ask(**env):
        command = [sys.executable, "-c", start]
        return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True).stdout

    script = ask(_FOCUSED_ATTENTION_COMPLETE="bash_source")
    assert "complete -o nosort -F _focused_attention_completion focused-attention" in script
    words = {"COMP_WORDS": "focused-attention sal", "COMP_CWORD": "1", "_FOCUSED_ATTENTION_COMPLETE": "bash_complete"}
    assert ask(**words) == "plain,saliency\n"
    words |= {"COMP_WORDS": "focused-attention crops --boxes cen", "COMP_CWORD": "3"}
    assert ask(**words) == "plain,center\n"


@pytest.mark.parametrize(
    "arguments",
    [("plan", "--seconds", "nan"), ("plan", "--seconds", "inf"), ("table2", "--seeds", str(10**23)),
     ("crops", "--workers", "0"), ("prepare", "--max-skipped", "nan"), ("crops", "--workers", str(10**23)),
     ("train-base", "--new-head", "--set", "base.epochs=0"), ("table1", "--frames", "-1")],
)  # fmt: skip
def test_numbers_of_options_are_bounded(arguments, tmp_path):
    """By the option itself, or as the setting that it replaces."""
    result = CliRunner().invoke(main, [arguments[0], "--run", str(tmp_path / "run"), *arguments[1:]])
    assert result.exit_code in (2, 4) and isinstance(result.exception, SystemExit), result.output
    assert not (tmp_path / "run").exists()
