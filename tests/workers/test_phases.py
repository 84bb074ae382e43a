"""--profile: phases that add up, in one process and over several, and nothing where nobody asked.

In one process a clock is read that moves only when a test moves it, so the seconds are exact on any machine.
"""

import re
import shutil
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from joblib import Parallel, delayed

from pipeline.cli.main import main
from pipeline.config_file import to_toml
from pipeline.stages import train_fusion
from pipeline.workers import phases
from pipeline.workers.prefetch import prefetch
from tests.helpers.tiny_data import caches, change


@pytest.fixture
def shown():
    """What `profile` showed."""
    return []


@pytest.fixture
def sleep(monkeypatch):
    """Let seconds pass on the clock that `phases` reads, in whatever thread."""
    passed = []
    monkeypatch.setattr(phases, "time", SimpleNamespace(perf_counter=lambda: sum(passed)))
    return passed.append


def _table(text: str) -> dict[str, dict[str, float]]:
    """Seconds by phase of each part of a report, and its total under ""."""
    parts, found = {}, None
    for line in text.splitlines()[1:]:
        name, value = re.fullmatch(r" +(\S.*?) +(\d+\.\d+) s.*", line).groups()
        if line.startswith("    "):
            found[name] = float(value)
        else:
            found = parts.setdefault(name, {"": float(value)})
    return parts


def test_an_inner_phase_stops_the_outer_one(shown, sleep):
    with phases.profile(shown.append, "test"):
        with phases.phase("network"):
            sleep(2)
            with phases.phase("write"):
                sleep(1)
            sleep(4)
        sleep(8)
    assert shown[0].startswith("where the time of test went, 15.00 s by the clock")
    assert _table(shown[0])["all processes"] == {"": 15, "network": 6, "write": 1, "other": 8}


def test_what_a_thread_does_ahead_is_apart(shown, sleep, monkeypatch):
    """The thread lets time pass when the main thread has begun to wait for its item."""
    waits, real = threading.Event(), phases.phase

    @contextmanager
    def seen(name):
        with real(name):
            if name == "wait":
                waits.set()
            yield

    def items():
        for number in range(3):
            with phases.phase("decode"):
                assert waits.wait(300)
                waits.clear()
                sleep(5)
            yield number

    monkeypatch.setattr(phases, "phase", seen)
    with phases.profile(shown.append, "test"):
        assert list(prefetch(items())) == [0, 1, 2]
    parts = _table(shown[0])
    assert parts["meanwhile, ahead of them"]["decode"] == 15
    assert parts["all processes"] == {"": 15, "wait": 15, "other": 0}


def _encode() -> tuple[float, float]:
    """Seconds inside the phase, and of the phase with its beginning and end."""
    start = time.perf_counter()
    with phases.phase("encode"):
        begun = time.perf_counter()
        time.sleep(0.2)
        inside = time.perf_counter() - begun
    return inside, time.perf_counter() - start


def test_workers_return_what_they_measured(shown):
    """What two processes do is added up, and the parent's waiting counts nowhere."""
    least = most = 0
    with phases.profile(shown.append, "test"):
        pool = Parallel(n_jobs=2, return_as="generator")
        calls = (delayed(phases.profile_worker)(phases.profiler_id(), _encode) for _ in "ab")
        for result, seconds in phases.timed_items("idle", pool(calls)):
            least, most = least + result[0], most + result[1]
            phases.add_worker(seconds)
    found = _table(shown[0])["all processes"]
    assert least - 0.005 <= found["encode"] <= most + 0.005 and "idle" not in found  # printed to a hundredth
    assert least >= 0.4


def test_off_means_off():
    assert phases.phase("decode") is phases.phase("write") and phases.profiler_id() is None
    assert phases.profile_worker(None, lambda: 3) == (3, {})
    phases.add_worker({("decode", False): 1.0})  # a worker's, after the profile has ended


def test_the_clocks_of_threads_do_not_meet(shown, sleep):
    def other():
        with phases.phase("resize"):
            sleep(3)

    with phases.profile(shown.append, "test"), phases.phase("network"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    parts = _table(shown[0])
    assert parts["all processes"]["network"] == 3 and parts["meanwhile, ahead of them"]["resize"] == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_stages_name_every_phase_and_write_the_same(trained, tiny_run, tmp_path, workers):
    """Over processes, too; what is stored does not know of it."""
    (tmp_path / "tiny.toml").write_text(to_toml(change(trained.config, workers=workers)))
    wanted = {
        "saliency": ({"network", "transfer", "encode", "write"}, {"decode", "resize"}),
        "crops": ({"decode", "resize", "encode", "write"}, set()),
        "train-fusion": ({"transfer", "network", "write", "wait"}, {"decode"}),
        "evaluate": ({"transfer", "network", "wait"}, {"decode"}),
    }
    for command, (foreground, ahead) in wanted.items():
        options = ["--config", str(tmp_path / "tiny.toml"), "--run", str(trained.path), "--profile"]
        result = CliRunner().invoke(main, [command, *options])
        assert result.exit_code == 0, result.output
        report = result.stderr[result.stderr.index(f"where the time of {command} went") :]
        parts = _table("\n".join(line for line in report.splitlines() if line.startswith(("where", "  "))))
        assert foreground <= parts["all processes"].keys(), report
        assert ahead <= parts.get("meanwhile, ahead of them", {}).keys(), report
        for found in parts.values():
            assert sum(found.values()) == pytest.approx(2 * found[""], abs=0.1)  # printed to a hundredth
    assert caches(trained.path) == caches(tiny_run.path)


def test_loader_processes_count_as_ahead(tiny_run, tmp_path, shown):
    run = tmp_path / "run"
    shutil.copytree(tiny_run.path, run, ignore=shutil.ignore_patterns("late*", "concat*"))
    with phases.profile(shown.append, "test"):
        train_fusion.run(change(tiny_run.config, fusion={"loader_workers": 1, "epochs": 1}), run, "late")
    parts = _table(shown[0])
    assert "decode" in parts["meanwhile, ahead of them"] and "decode" not in parts["all processes"]


def test_a_stage_that_fails_still_says_where_its_time_went(shown, tmp_path):
    with pytest.raises(FileNotFoundError), phases.profile(shown.append, "test"):
        (tmp_path / "nothing").read_bytes()
    assert shown
    assert phases.profiler_id() is None
