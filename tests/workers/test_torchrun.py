"""The stages as torchrun starts them, in two processes over gloo: what one process does, to the digit."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.checkpoint import read_state
from pipeline.config_file import to_toml
from pipeline.stages import crops, prepare, saliency, train_base, train_fusion, train_online
from tests.helpers.make_video import write_video
from tests.helpers.tiny_data import CLASSES, change, tiny_config

ROOT = Path(__file__).parents[2]
TRAIN, EVALUATE, BATCH = 61, 7, 3  # an epoch has 20 steps of 2 + 1 clips and one of 1 + 0
STEPS = 21
# The rate is small, for a ReLU that flips on a rounding error moves the next losses by as much as the rate lets it:
# with 0.01, the clips of a batch in another order, in one process, change them by 1e-4, too.
RECIPE = {"epochs": 1, "learning_rate": 3e-5, "drop_epochs": (), "batch_size": BATCH, "checkpoint_minutes": 0.0}


def make_videos(folder):
    """A bright square of the class's colour that moves over noise; the last EVALUATE ones are for evaluation."""
    folder.mkdir()
    lines = ["video_id,split,start,end,label"]
    for number in range(TRAIN + EVALUATE):
        rng, kind = np.random.default_rng(number), number % 3
        frames = rng.integers(0, 90, (5, 40, 56, 3), np.uint8)
        for time_, frame in enumerate(frames):
            frame[8 + 3 * time_ :, 4 + number % 40 :][:12, :12, kind] = 230
        write_video(folder / f"{number:03d}.mp4", list(frames), 8)
        lines.append(f"{number:03d},{'train' if number < TRAIN else 'test'},,,{CLASSES[kind]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, run folder) after crops, with a Base that is not the one of `trained_alone`."""
    root = tmp_path_factory.mktemp("torchrun")
    config = tiny_config(make_videos(root / "data"))
    config = change(
        config,
        clips={"aug_seeds": 1, "videos_per_unit": 20},
        base=RECIPE | {"batchnorm": "frozen"},
        fusion=RECIPE,
        saliency={"batch_size": 20},
    )
    prepare.run(config, root / "run")
    train_base.run(config, root / "run")
    saliency.run(config, root / "run")
    crops.run(config, root / "run", ("entropy",))
    return config, root / "run"


def torchrun(config, run_dir, *stage, processes=2):
    """Start `torchrun -m pipeline STAGE`, or the stage alone for one process."""
    path = run_dir / f"{stage[0]}.toml"
    path.write_text(to_toml(config))
    # without "--" torchrun would take --run for an abbreviation of an option of its own
    team = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--", "pipeline"]
    command = [sys.executable, *(team if processes > 1 else ["-m", "pipeline"]), *stage]
    command += ["--config", str(path), "--run", str(run_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    """What it printed; it must have done well."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out, err


def losses(folder):
    """Of every step of the only epoch: they are in its last checkpoint but one."""
    (path,) = folder.glob(f"checkpoint-0000-{STEPS:08d}-*.pt")
    found = torch.load(path, weights_only=True)["losses"]
    assert len(found) == STEPS
    return found


def assert_same_training(one, other):
    """Losses to 1e-5; weights and statistics at the end likewise."""
    assert losses(one) == pytest.approx(losses(other), rel=1e-5)
    left, right = read_state(one / "weights.pt"), read_state(other / "weights.pt")
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)


def copy(run_dir, folder):
    """The run without what a training of its fusion models wrote."""
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("late*", "concat*", "*.toml"))
    return folder


@pytest.mark.parametrize("batchnorm", ["frozen", "synchronised"])
def test_train_base(run, tmp_path, batchnorm):
    config = change(run[0], base={"batchnorm": batchnorm}, seed=1)
    alone = train_base.run(config, copy(run[1], tmp_path / "alone")).path
    out, _ = finished(torchrun(config, copy(run[1], tmp_path / "team"), "train-base"))
    assert out.count("wrote") == 1
    assert_same_training(tmp_path / "team/models" / alone.name, alone)


@pytest.mark.parametrize("batchnorm", ["frozen", "synchronised"])
def test_late_fusion_and_temporal_concatenation(run, tmp_path, batchnorm):
    """Said and written once; the epoch's line says how many trained."""
    config = change(run[0], fusion={"batchnorm": batchnorm})
    folder = copy(run[1], tmp_path / "alone")
    alone = [train_fusion.run(config, folder, fusion).path for fusion in ("late", "concat")]
    out, err = finished(torchrun(config, copy(run[1], tmp_path / "team"), "train-fusion"))
    assert out.count("wrote") == 2 and err.count(f"{STEPS}/{STEPS} steps") == 2
    for one in alone:
        team = tmp_path / "team/models" / one.name
        assert_same_training(team, one)
        tables = [pd.read_csv(path / "metrics.csv") for path in (one, team)]
        assert [table.processes.tolist() for table in tables] == [[1], [2]]


def test_online(run, tmp_path):
    """Each process looks at its own clips."""
    config = change(run[0], fusion={"batchnorm": "synchronised"})
    alone = train_online.run(config, copy(run[1], tmp_path / "alone"), "late").path
    stage = ("train-fusion", "--fusion", "late", "--online")
    finished(torchrun(config, copy(run[1], tmp_path / "team"), *stage))
    assert_same_training(tmp_path / "team/models" / alone.name, alone)


def rank_of(pid):
    """Of a process that torchrun started; None of another one."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next((int(line[5:]) for line in lines if line.startswith(b"RANK=")), None)
    return None


def kill_rank(process, rank):
    """SIGKILL one of the processes that a torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = (int(pid) for pid in children if rank_of(pid) == rank)
    os.kill(child, signal.SIGKILL)


def cut_in_mid_epoch(config, run_dir, folder, stage, rank):
    """A copy of the run, trained until a process was killed between its third step and its last.

    Where the machine let the training get further before the kill, it is done anew.
    """
    for trial in range(10):
        copied = copy(run_dir, folder / f"cut{trial}")
        process = torchrun(config, copied, *stage)
        while process.poll() is None and not list(copied.glob("models/late-*/checkpoint-0000-0000000[3-9]-*")):
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):  # it has ended meanwhile
            kill_rank(process, rank)
        code, found = process.wait(timeout=600), sorted(path.name for path in copied.glob("models/late-*/checkpoint-*"))
        if code and found and "checkpoint-0000-00000003" <= found[-1] < f"checkpoint-0000-{STEPS:08d}":
            return copied
    raise AssertionError("ten trainings got further before they could be killed")


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_process_killed_in_mid_epoch(run, tmp_path, rank):
    """The same command goes on, with two processes or with one, and ends as if nothing had been."""
    config = change(run[0], fusion={"batchnorm": "synchronised"})
    stage = ("train-fusion", "--fusion", "late")
    alone = train_fusion.run(config, copy(run[1], tmp_path / "alone"), "late").path
    folder = cut_in_mid_epoch(config, run[1], tmp_path, stage, rank)
    (cut,) = folder.glob("models/late-*")
    done = int(sorted(cut.glob("checkpoint-*"))[-1].name.split("-")[2])
    assert 3 <= done < STEPS and not (cut / "weights.pt").exists()
    shutil.copytree(folder, tmp_path / "by-one")
    for again, processes in ((folder, 2), (tmp_path / "by-one", 1)):
        _, err = finished(torchrun(config, again, *stage, processes=processes))
        assert f"{STEPS - done}/{STEPS - done} steps" in err
        assert_same_training(again / "models" / cut.name, alone)


def test_evaluation_is_equal_to_the_byte(run, tmp_path):
    """Fourteen clips in batches of three: three of them for one process, two for the other; results and table."""
    config, folder = run[0], copy(run[1], tmp_path / "alone")
    for fusion in ("late", "concat"):
        train_fusion.run(config, folder, fusion)
    shutil.copytree(folder, tmp_path / "team")
    found = {}
    for name, processes in (("alone", 1), ("team", 2)):
        out, err = finished(torchrun(config, tmp_path / name, "evaluate", processes=processes))
        assert out.count("wrote") == out.count("mAP in per cent") == 1
        batches = 5 if processes == 1 else 3
        assert err.count(f"{batches}/{batches} batches") == 2
        files = [tmp_path / name / "results.csv", *sorted((tmp_path / name / "results").iterdir())]
        found[name] = {path.name: path.read_bytes() for path in files}
    lock = {".lock"}
    assert len(found["alone"].keys() - lock) == 1 + 3 * 3 and found["team"] == found["alone"]
