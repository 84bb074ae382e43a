"""One process a device: whoever is about to compute claims one of this machine's, and frees it, however it ends."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.05
_last = {}  # claims' name -> the device that this process had before, whose memory holds its network


@contextmanager
def claimed(devices: tuple[str, ...], name: str) -> Iterator[str]:
    """Hold one of the devices against every other process of this machine; wait while all of them are in use.

    The kernel binds an abstract socket address once and frees it with the process: nothing is left behind on machines
    that are only visited.

    Args:
        devices: torch names. The one that this process had before is tried first.
        name: processes with the same name share the devices.
    """
    order = sorted(devices, key=lambda device: device != _last.get(name))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        while (device := next((one for one in order if _bound(claim, f"\0{name}/{one}")), None)) is None:
            time.sleep(POLL_SECONDS)
        _last[name] = device
        yield device


def _bound(claim: socket.socket, address: str) -> bool:
    try:
        claim.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True
