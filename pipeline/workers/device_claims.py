"""At most one process computes on a device of this machine at a time, however many workers there are.

A claim is an abstract Unix socket address: the kernel binds it once, and frees it when the process ends, in whatever
way. Nothing is left on the machine.
"""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.05
ADDRESSES = socket.AF_UNIX, socket.SOCK_DGRAM
_preferred = {}  # group: (this process's device, the socket that reserves it while the process lives)


@contextmanager
def claim_device(devices: tuple[str, ...], group: str) -> Iterator[str]:
    """Hold one of the devices (torch names) against all other processes of this machine; wait while all are in use.

    The first processes prefer one device each, as long as they live: their network stays in its memory. A process
    beyond the number of devices takes whichever is free. The processes of a group share the devices.
    """
    preferred = _preferred_device(devices, group)
    order = sorted(devices, key=lambda device: device != preferred)
    with socket.socket(*ADDRESSES) as claim:
        while (device := _bind_first(claim, f"{group}/in use", order)) is None:
            time.sleep(POLL_SECONDS)
        yield device


def _preferred_device(devices: tuple[str, ...], group: str) -> str | None:
    """Return the device reserved for this process; None where other processes have reserved all of them."""
    if group not in _preferred:
        _preferred.clear()
        reservation = socket.socket(*ADDRESSES)
        _preferred[group] = _bind_first(reservation, f"{group}/own", devices), reservation
    return _preferred[group][0]


def _bind_first(claim: socket.socket, name: str, devices) -> str | None:
    """Bind the socket to the first device whose address is free, and return the device; None where none is."""
    for device in devices:
        try:
            claim.bind(f"\0{name}/{device}")
            return device
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return None
