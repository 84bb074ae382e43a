"""How the commands let PyTorch's threads wait for each other."""

import os
import re
import subprocess
import sys

import pytest

from pipeline.workers.openmp import LOOKS

OWN = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_DISPLAY_ENV"}


@pytest.mark.parametrize(
    ("said", "looks"),
    [({}, str(LOOKS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, r"\d{9,}")],
)
def test_threads_of_commands_look_briefly_unless_the_environment_says_how(said, looks, tmp_path):
    """OpenMP prints what it has understood when PyTorch loads it."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    command = [sys.executable, "-m", "pipeline", "train-base", "--run", str(tmp_path)]
    found = subprocess.run(command, env=environment | {"OMP_DISPLAY_ENV": "verbose"} | said, capture_output=True)
    assert found.returncode == 4  # there is no plan
    shown = re.findall(r"GOMP_SPINCOUNT = '(\w+)'", found.stderr.decode())
    if not shown:
        pytest.skip("this PyTorch does not use GNU OpenMP")
    assert re.fullmatch(looks, shown[0])
