"""One process a device: whoever is about to compute claims one of this machine's, and frees it, however it ends."""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.05
_homes = {}  # claims' name -> this process's own device, and the socket that makes it so as long as the process lives


@contextmanager
def claimed(devices: tuple[str, ...], name: str) -> Iterator[str]:
    """Hold one of the devices against every other process of this machine; wait while all of them are in use.

    As many processes as devices have one each, for life, whose memory holds their network; a process too many takes
    whichever is free. The kernel binds an abstract socket address once and frees it with the process: nothing is left
    behind on machines that are only visited.

    Args:
        devices: torch names.
        name: processes with the same name share the devices.
    """
    own = _own(devices, name)
    order = sorted(devices, key=lambda device: device != own)
    with _unbound() as claim:
        while (device := _bind_one(claim, f"{name}/in use", order)) is None:
            time.sleep(POLL_SECONDS)
        yield device


def _own(devices: tuple[str, ...], name: str) -> str | None:
    """The device that is this process's own; None where others have all of them."""
    if name not in _homes:
        _homes.clear()
        home = _unbound()
        _homes[name] = _bind_one(home, f"{name}/own", devices), home
    return _homes[name][0]


def _unbound() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def _bind_one(claim: socket.socket, name: str, devices) -> str | None:
    """Bind the socket to the first device that nobody is bound to."""
    for device in devices:
        try:
            claim.bind(f"\0{name}/{device}")
            return device
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return None
