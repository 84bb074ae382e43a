"""At most one process computes on a device of this machine at a time, however many workers there are.

A claim is an abstract Unix socket address: the kernel binds it once, and frees it when the process ends, in whatever
way. Nothing is left on the machine.
"""

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

POLL_SECONDS = 0.05
ADDRESSES = socket.AF_UNIX, socket.SOCK_DGRAM


@contextmanager
def claim_device(devices: tuple[str, ...], group: str) -> Iterator[str]:
    """Hold one of the devices (torch names) against all other processes of this machine; wait while all are in use.

    The first processes prefer one device each, as long as they live: their network stays in its memory. A process
    beyond the number of devices takes whichever is free. The processes of a group share the devices.
    """
    preferred, _ = _reserve_device(devices, group)
    order = sorted(devices, key=lambda device: device != preferred)
    with socket.socket(*ADDRESSES) as claim:
        while (device := _bind_first(claim, f"{group}/in use", order)) is None:
            time.sleep(POLL_SECONDS)
        yield device


@lru_cache(1)
def _reserve_device(devices: tuple[str, ...], group: str) -> tuple[str | None, socket.socket]:
    """Reserve a device, while the socket lives; None where other processes have reserved all of them."""
    reservation = socket.socket(*ADDRESSES)
    return _bind_first(reservation, f"{group}/own", devices), reservation


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
