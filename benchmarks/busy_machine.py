"""Row 24: maps beside a busy program, as the commands let threads wait for each other and as OpenMP does."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch

from benchmarks.networks import both_networks
from benchmarks.result import Result
from models.frozen.fold import fold
from models.objectives import saliency_maps
from pipeline.workers.openmp import LOOKS

GOAL = 1.3
CLIPS, TURNS = 4, 4
OPENMPS_OWN = 300_000  # GOMP_SPINCOUNT where nothing is set


def measure() -> Result:
    quiet = _both_sides()
    with _busy_program():
        busy = _both_sides()
    ours, theirs = (median(one["seconds"] for one in found) for found in busy)
    alone = [median(one["seconds"] for one in found) for found in quiet]
    equal = len({one["map"] for found in (*quiet, *busy) for one in found}) == 1
    return Result(
        name="saliency map of a clip of 16 frames beside a busy program, against OpenMP's own way of waiting",
        ours=ours,
        theirs=theirs,
        ratio=theirs / ours,
        goal=f"≥ {GOAL}",
        met=theirs / ours >= GOAL and equal,
        agreement=f"{'equal' if equal else 'other'} maps; without the busy program {alone[1] / alone[0]:.3g} x as fast",
    )


def _both_sides() -> tuple[list[dict], list[dict]]:
    """What processes of both sides, started in turn, have printed."""
    found = {LOOKS: [], OPENMPS_OWN: []}
    for _ in range(TURNS):
        for looks, printed in found.items():
            command = [sys.executable, "-m", "benchmarks.busy_machine"]
            environment = os.environ | {"GOMP_SPINCOUNT": str(looks)}
            printed.append(json.loads(subprocess.check_output(command, env=environment)))
    return tuple(found.values())


@contextmanager
def _busy_program() -> Iterator[None]:
    """Keep one core busy, or a share of it."""
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def main() -> None:
    """Print the median seconds of a map in this process, and the sum of the map."""
    network = fold(both_networks()[0])
    clip = torch.rand(1, 16, 224, 224, 3, generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(1 + CLIPS):
        start = time.perf_counter()
        maps = saliency_maps(network, clip, ["entropy"])[1]
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": median(seconds[1:]), "map": float(maps["entropy"].double().sum())}))


if __name__ == "__main__":
    main()
