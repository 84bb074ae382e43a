"""`python -m benchmarks.gpu`, or `make gpu-check`: the tests that need a card, then how fast it is, in minutes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import click
import torch

from benchmarks import gpu_networks, gpu_stages
from benchmarks.gpu_networks import COMPILED, GRAPH, HF, PLAIN, PRECISIONS, TRAINING_WAYS, WAYS, Measured, Subject
from benchmarks.result import table
from benchmarks.scene import Scene

ROOT = Path(__file__).parents[1]
HEAD = ("what", "network", "T_in", "precision", "how", "a second", "of matrix product", "peak memory")
HEAD += ("boxes as in float32", "waited for decoding")
NOT_RUN = "not run"
SUBJECTS = (
    *(Subject("resnet50_i3d", frames, 224, 512 // frames) for frames in (64, 32, 16)),
    *(Subject("small_i3d", 8, 56, 64), Subject(HF, 16, 224, 8)),
)


@dataclass(frozen=True)
class Line:
    """A line of the table, and what measures it."""

    what: str
    network: str
    frames: int
    precision: str
    how: str
    measure: Callable[[], Measured]

    def cells(self, found: Measured | str) -> tuple[str, ...]:
        """Return the cells of HEAD; found is a text where nothing was measured."""
        first = (self.what, self.network, str(self.frames or "-"), self.precision, self.how)
        if isinstance(found, str):
            return (*first, found, "-", "-", "-", "-")
        share = "-" if found.share is None else f"{found.share:.0%}"
        memory = "-" if found.memory is None else f"{found.memory / 1e9:.2f} GB"
        waited = "-" if found.waited is None else "{:.2f} s ({:.0%})".format(*found.waited)
        return (*first, f"{found.rate:.3g} {found.unit}", share, memory, found.boxes or "-", waited)

    def measured(self) -> tuple[str, ...]:
        """Measure, and return the cells; where that fails, they say why."""
        try:
            return self.cells(self.measure())
        except torch.OutOfMemoryError:
            return self.cells("out of memory")
        except Exception as error:  # of a compiler or a driver: any; the other lines are measured all the same
            why = str(error).strip().partition("\n")[0][:120].replace("|", "/")
            return self.cells(f"failed: {type(error).__name__}: {why}")


def lines(
    device: torch.device,
    make_scene: Callable[[], Scene],
    subjects: tuple[Subject, ...] = SUBJECTS,
    products: tuple[int, ...] = (4096, 8192),  # edges of matrices
    workers: tuple[int, ...] = (1, 2, 4, 8, 16),  # processes that decode
) -> list[Line]:
    """List what is measured, in this order: what compiles comes last, for it takes longest."""
    scene, precisions = cache(make_scene), PRECISIONS[::-1]
    rate = cache(lambda precision: gpu_networks.product_rate(device, precision, products))
    found = [Line("matrix product", "-", 0, one, "torch.mm", partial(rate, one)) for one in precisions]
    there = [one for one in subjects if one.network != HF or find_spec("transformers")]
    passes = [(one, "saliency", WAYS, gpu_networks.saliency) for one in there]
    for one, what, ways, measure in [*passes, (there[0], "training step", TRAINING_WAYS, gpu_networks.training)]:
        for way, precision in product(ways, precisions):
            # transformers keeps VideoMAE's positions on the CPU: no graph can copy them
            if one.network != HF or (PLAIN not in way and way != GRAPH):
                run = partial(measure, one, way, precision, device, partial(rate, precision))
                found.append(Line(what, one.network, one.frames, precision, way, run))
    of = gpu_stages.NETWORK, gpu_stages.CLIPS["num_frames"]
    for count in workers:
        run = partial(lambda count: gpu_stages.waiting(scene(), count), count)
        found.append(Line("stage 1", *of, "bfloat16", f"{count} decode workers", run))
    for precision, cached in product(precisions, (True, False)):
        run = partial(lambda *choice: gpu_stages.training(scene(), *choice), cached, precision)
        found.append(Line("stage 3", *of, precision, "from the caches" if cached else "on the fly", run))
    return sorted(found, key=lambda line: COMPILED in line.how)


def measured_within(seconds: float, folder: str, listed: list[Line]) -> list[tuple[str, ...]]:
    """Measure the lines of the card in a process of its own, which is ended when time is up; return their cells."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--measure", folder]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    rest = NOT_RUN
    try:
        out, _ = child.communicate(timeout=max(0.0, seconds))
        rest = f"failed: the process that measures ended with code {child.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # its own workers, too
        out, _ = child.communicate()
    done = [tuple(json.loads(line)) for line in out.splitlines() if line.startswith("[")]
    texts = [rest, *[NOT_RUN] * len(listed)]
    return [*done, *(line.cells(text) for line, text in zip(listed[len(done) :], texts, strict=False))]


@click.command()
@click.option("--minutes", default=8.0, show_default=True, help="For all; what does not fit into them is not run.")
@click.option("--measure", type=click.Path(path_type=Path), hidden=True)  # of the process that measures
def main(minutes: float, measure: Path | None) -> None:
    """Run tests/test_cuda.py, and measure one card: a Markdown table with its name. Exit code 1: something failed."""
    end = time.monotonic() + 60 * minutes - 5
    if not torch.cuda.is_available():
        click.echo("There is no CUDA device here: nothing is measured, tests/test_cuda.py is skipped, 0 tests failed.")
        return
    device = torch.device("cuda")
    listed = lines(device, partial(gpu_stages.make_scene, measure, device))
    if measure:
        for line in listed:
            click.echo(json.dumps(line.measured()))
        return
    tests = [sys.executable, "-m", "pytest", "tests/test_cuda.py"]
    try:
        code = subprocess.run(tests, cwd=ROOT, stdout=sys.stderr, timeout=24 * minutes).returncode
    except subprocess.TimeoutExpired:
        code = "none: not finished in time"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cells = measured_within(end - time.monotonic(), folder, listed)
    card, rates = torch.cuda.get_device_properties(0), [line[5] for line in cells]
    click.echo(f"{table(HEAD, cells)}\n\n{card.name}, {card.total_memory / 2**30:.0f} GiB, {os.cpu_count()} CPU cores,")
    click.echo(f"PyTorch {torch.__version__}; {date.today()}. {gpu_stages.DESCRIPTION}.")
    click.echo(f"Not run for want of time: {rates.count(NOT_RUN)} lines. tests/test_cuda.py: exit code {code}.")
    sys.exit(int(code != 0 or any(rate.startswith("failed") for rate in rates)))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.gpu")
