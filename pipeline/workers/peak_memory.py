"""Memory of processes as Linux counts it: resident bytes now, and at their peak."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in
MEASURING_PARENT = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)"
)


def reset_peak() -> None:
    """Start a new peak of this process; where the kernel does not allow it, the old one stays."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the peak of this process's resident bytes; 0 where the kernel does not say."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return this process's resident bytes now; 0 where the kernel does not say."""
    return _status("VmRSS")


def run_measured(command: list[str]) -> tuple[str, int, int]:
    """Run Python with arguments; return what it printed, the peak bytes of its largest process, and its exit code.

    A small process in between measures: a child's peak starts at that of the process that starts it.
    """
    command = [sys.executable, "-S", "-c", MEASURING_PARENT, sys.executable, *command]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    peak, code = map(int, lines[-1].split())
    return "\n".join(lines[:-1]), peak * RSS_UNIT, code


def _status(name: str) -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
