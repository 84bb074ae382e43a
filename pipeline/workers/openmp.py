"""How PyTorch's threads wait for each other on a CPU."""

import os

LOOKS = 10_000


def wait_briefly() -> None:
    """Let threads that wait for another one sleep soon, in this process and in those that it starts.

    GNU OpenMP, which comes with PyTorch on Linux, looks 300,000 times before a thread sleeps: up to 20 ms, in each of
    hundreds of operations. Where another program is busy, the thread that is waited for may not even be running, and
    everything takes several times as long (benchmarks, row 24). Works where torch is not imported yet. What the
    environment says already, in GOMP_SPINCOUNT or OMP_WAIT_POLICY, stays.
    """
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = str(LOOKS)
