"""Fixtures that several test files share: one tiny run through all stages, to be read only, and copies of it.

Where SKIPS_ALLOWED is set, as by .ci/run, a test that is skipped for a reason which is on no list fails the session.
"""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cache.layout import PRODUCTS
from pipeline.config import Config
from tests.helpers.tiny_data import change, make_data, run_all, tiny_config

torch.set_num_threads(1)  # the networks of the tests are too small for more, and the machine may be shared


@dataclass(frozen=True)
class TinyRun:
    """A data folder, a run folder, and the config that made the one from the other."""

    data: Path
    path: Path
    config: Config


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> TinyRun:
    """All stages once, late fusion and temporal concatenation. Do not change it: take `tiny_copy`."""
    root = tmp_path_factory.mktemp("tiny")
    config = tiny_config(make_data(root / "data"))
    run_all(config, root / "run")
    return TinyRun(root / "data", root / "run", config)


TRAINED = (*PRODUCTS, "results*", "late*", "concat*")  # what train-base has not written yet


@pytest.fixture
def tiny_copy(tiny_run, tmp_path) -> TinyRun:
    """The finished run, to be changed; its videos are still the shared ones, as in the next two."""
    return _copy(tiny_run, tmp_path)


@pytest.fixture
def trained(tiny_run, tmp_path) -> TinyRun:
    """The run as it was after train-base: plan, labels and Base."""
    return _copy(tiny_run, tmp_path, *TRAINED)


@pytest.fixture
def looked(tiny_run, tmp_path) -> TinyRun:
    """The run as it was after saliency."""
    return _copy(tiny_run, tmp_path, "context", "crops", "results*", "late*", "concat*")


@pytest.fixture
def own_videos(tiny_run, tmp_path) -> TinyRun:
    """The run as it was after train-base, with videos that may be changed."""
    run, data = _copy(tiny_run, tmp_path, *TRAINED), tmp_path / "data"
    shutil.copytree(tiny_run.data, data)
    return TinyRun(data, run.path, change(run.config, data={"videos": str(data)}))


def _copy(tiny_run: TinyRun, folder: Path, *without: str) -> TinyRun:
    shutil.copytree(tiny_run.path, folder / "run", ignore=shutil.ignore_patterns(*without))
    return TinyRun(tiny_run.data, folder / "run", tiny_run.config)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="tests/reliability in full numbers, not a sample of each")


def pytest_make_parametrize_id(val):
    """Name long bytes by their number: what they hold may differ between the processes of one run (times, numbers)."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 40 else None


def pytest_collection_modifyitems(config, items):
    left = [item for item in items if item.get_closest_marker("full") and not config.getoption("--full")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


# Why a test may be skipped in CI: what is not in the repository, or what its machine does not allow.
SKIPS = (
    *("../shared/data is not here", "needs the shared", "needs a GPU", "needs a checkout with its history"),
    *("sealed by themselves", "a small tmpfs cannot be mounted", "no ext4 image can be"),
    "torch.compile needs a C++ compiler",
)


def unexpected_skips(reasons: list[str], allowed: str) -> list[str]:
    """Return the reasons that neither SKIPS nor a word of `allowed` is part of."""
    return [one for one in reasons if not any(known in one for known in (*SKIPS, *allowed.split()))]


def skip_reasons(config) -> list[str]:
    """Return the reason of every test that was skipped so far; none in a worker of pytest-xdist."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found = reporter.stats.get("skipped", []) if reporter else []
    return [one.longrepr[2].removeprefix("Skipped: ") for one in found if isinstance(one.longrepr, tuple)]


def pytest_sessionfinish(session):
    allowed = os.environ.get("SKIPS_ALLOWED")
    if allowed is not None and not session.exitstatus and unexpected_skips(skip_reasons(session.config), allowed):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """Say in one line what was skipped and why, and in a second one which of it fails CI."""
    reasons = skip_reasons(terminalreporter.config)
    if reasons:
        counted = "; ".join(f"{count} x {reason}" for reason, count in Counter(reasons).most_common())
        terminalreporter.write_line(f"skipped: {counted}")
    allowed = os.environ.get("SKIPS_ALLOWED")
    if unknown := set(unexpected_skips(reasons, allowed)) if allowed is not None else set():
        where = "neither in SKIPS of tests/conftest.py nor in SKIPS_ALLOWED"
        terminalreporter.write_line(f"FAILED: these reasons to skip are {where}: {'; '.join(sorted(unknown))}")


@pytest.fixture
def trials(request):
    """(number in full, number of a sample) to the number of trials asked for."""
    return lambda full, sample: full if request.config.getoption("--full") else sample
