"""The most memory a process has held since the last look, as Linux counts it."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that ru_maxrss counts in
BETWEEN = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)"
)


def reset_peak() -> None:
    """Forget the peak so far; where the kernel does not let us, the old peak stays."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(process: int | str = "self") -> int:
    """Resident bytes at the peak, of this process or of another; 0 where the kernel does not say."""
    return _status("VmHWM", process)


def held_bytes() -> int:
    """Resident bytes now; 0 where the kernel does not say."""
    return _status("VmRSS")


def run_measured(command: list[str], folder: Path | None = None) -> tuple[str, int, int]:
    """(what a Python command printed, peak bytes of its largest process, exit code).

    The peak is asked of a small process between, as a child inherits that of whoever starts it.

    Args:
        command: arguments of the interpreter.
        folder: to run it in.
    """
    command = [sys.executable, "-S", "-c", BETWEEN, sys.executable, *command]
    said = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    peak, code = map(int, said[-1].split())
    return "\n".join(said[:-1]), peak * RSS_UNIT, code


def _status(name: str, process: int | str = "self") -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
