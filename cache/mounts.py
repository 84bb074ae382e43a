"""Shared file systems: do the locks of a run folder reach other machines? The mount options say."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from cache.errors import StorageError

log = logging.getLogger(__name__)

MOUNTS = Path("/proc/self/mounts")
ONLY_HERE = {  # kind of file system -> the options with which flock stays on this machine
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=flock"},
    "cifs": {"nobrl", "nolock"},
    "smb3": {"nobrl", "nolock"},
    "lustre": {"localflock"},
    "fuse.sshfs": {"rw", "ro"},  # always
}


@dataclass(frozen=True)
class Mount:
    """One line of the table of mounts."""

    place: Path
    kind: str
    options: frozenset[str]


def check_locks(folder: Path, cluster: bool, mounts: Path | None = None) -> None:
    """Warn, or refuse, where two machines could both believe that a unit is theirs.

    Commits stay whole without locks, but the same unit may then be done twice at once, and two GPUs need not agree on
    its last digits: a Zarr shard could belong to the one and its record to the other.

    Args:
        folder: the run folder.
        cluster: whether workers on other machines are about to be given units.
        mounts: the table of mounts, where it is not this machine's.
    Raises:
        StorageError: they are, and locks stay on each machine.
    """
    mount = mount_of(folder, mounts)
    if mount is None:
        return
    if reasons := ONLY_HERE.get(mount.kind, set()) & mount.options:
        option = "" if mount.kind == "fuse.sshfs" else f" mounted with {', '.join(sorted(reasons))}"
        trouble = f"{folder} is on {mount.place}, {mount.kind}{option}: its locks do not reach other machines"
        if cluster:
            raise StorageError(f"{trouble}, so no cluster can work on it; mount it with shared locks")
        log.warning("%s; several of them may work on it only with --part I/N", trouble)
    elif mount.kind.startswith("fuse") and cluster:
        log.warning(
            "%s is on %s, %s: whether its locks reach other machines depends on its driver, and cannot be seen here",
            *(folder, mount.place, mount.kind),
        )


def mount_of(folder: Path, mounts: Path | None = None) -> Mount | None:
    """The mount that a folder is on; None where there is no such table. Of several on one place the last one counts."""
    try:
        lines = (mounts or MOUNTS).read_text().splitlines()
    except OSError:
        return None
    folder, found = folder.resolve(), None
    for line in lines:
        _, place, kind, options, *_ = line.split(" ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), place))  # a space is \040
        if folder.is_relative_to(place) and (found is None or len(place.parts) >= len(found.place.parts)):
            found = Mount(place, kind, frozenset(options.split(",")))
    return found
