"""What .ci/run promises: a test that is skipped for a reason on no list fails it, and says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import unexpected_skips

ROOT = Path(__file__).parents[1]
CHROMIUM = "no chromium and chromedriver (Debian: chromium-driver)"


def test_reasons_are_known_by_list_or_allowed_by_word():
    reasons = ["../shared/data is not here", CHROMIUM, "needs pip install -e '.[ray]'"]
    assert unexpected_skips(reasons, "") == reasons[1:]
    assert unexpected_skips(reasons, "ray ") == [CHROMIUM] and unexpected_skips(reasons, "ray chromium ") == []


@pytest.mark.parametrize(("allowed", "code"), [(None, 0), ("chromium ", 0), ("ray ", 1)])
def test_a_skip_that_nobody_expects_fails(allowed, code, tmp_path):
    (tmp_path / "test_page.py").write_text(f"import pytest\n\n\ndef test_page():\n    pytest.skip({CHROMIUM!r})\n")
    environment = {name: value for name, value in os.environ.items() if name != "SKIPS_ALLOWED"}
    environment |= {} if allowed is None else {"SKIPS_ALLOWED": allowed}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == code, done.stdout
    assert f"skipped: 1 x {CHROMIUM}" in lines and "1 skipped" in lines[-1]
    assert ("FAILED: these reasons" in done.stdout) == bool(code)


def test_the_script_is_one():
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
