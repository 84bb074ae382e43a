"""The most memory a process has held since the last look, as Linux counts it."""

from contextlib import suppress
from pathlib import Path


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


def _status(name: str, process: int | str = "self") -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
