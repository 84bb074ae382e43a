"""Weights files: read without running code, loaded strictly, hashed; nothing is ever downloaded."""

import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor, nn

log = logging.getLogger(__name__)

# Wrappers of the published files: DataParallel, and PyVideoResearch's networks around a base.
PREFIXES = ("module.", "basenet.")
# Where the state dict lies in a file that holds more than it.
STATE_KEYS = ("state_dict", "model_sdict", "model")
# The published files keep their scores as NumPy floats. Nothing else but tensors and plain containers is let in.
NUMPY_TYPES = [
    scalar,
    (scalar, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]

MAX_BYTES = 8 << 30


class WeightsError(ValueError):
    """A weights file that does not fit; the message names every key."""

    exit_code = 4  # what a command ends with


def load_weights(
    network: nn.Module,
    path: Path | str,
    head: Iterable[str] = (),
    new_head: bool = False,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> list[str]:
    """Load a weights file into a network: everything, or nothing.

    Args:
        network: changed only if all fits.
        path: a `torch.save` file of a state dict, or of a dict with one under "state_dict", "model_sdict" or "model".
            The prefixes "module." and "basenet." are taken off its names.
        head: state names of the network's classifier, see `backbones.head_names`.
        new_head: keep the network's own classifier and ignore the file's.
        convert: makes the network's state dict of the file's, such as `i3d.inflate_2d`.
    Returns:
        the names left as they were: `head` with new_head, and counters of batch-norm that old files lack.
    Raises:
        WeightsError: the file holds other objects than tensors and numbers, or a name is missing, unexpected or of
            another shape; all are listed.
    """
    wanted = network.state_dict()
    state = read_state(path)
    given = {_bare(name): value for name, value in state.items()}
    if len(given) < len(state):
        raise WeightsError(f"{path} has names that are the same without the prefixes {', '.join(PREFIXES)}")
    given = convert(given) if convert else given
    # counters that nothing reads, absent from files older than PyTorch 0.4.1
    kept = [name for name in wanted.keys() - given.keys() if name.endswith(".num_batches_tracked")]
    kept = sorted([*kept, *head] if new_head else kept)
    for name in kept:
        given[name] = wanted[name]
    problems = _problems(wanted, given)
    if problems:
        hint = ""
        if not new_head and {name for name, _ in problems} <= set(head):
            hint = f"\nOnly the classifier differs: the file has {_classes(given, head)} classes, the network "
            hint += f"{_classes(wanted, head)}. With --new-head it starts anew and the rest is loaded."
        table = "\n".join(f"  {name:<48} {what}" for name, what in problems)
        raise WeightsError(f"{path} does not fit the network:\n{table}{hint}")
    network.load_state_dict(given)
    log.info("loaded %d arrays from %s, left as they were: %s", len(given) - len(kept), path, kept or "none")
    return kept


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a weights file, on the CPU, with the file's own names.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is broken, would run code, or holds no state dict.
    """
    data = _bounded(Path(path))
    try:
        with torch.serialization.safe_globals(NUMPY_TYPES):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file fails in many ways; all end here, named
        raise WeightsError(f"{path} is not a weights file that can be read safely: {error}") from error
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(f"{path} has no state dict, neither itself nor under {', '.join(STATE_KEYS)}: found {found}")
    return state


def _bounded(path: Path) -> bytes:
    """The file's bytes, after a look at how much they would unpack to.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is too large, or an archive with compressed entries, which `torch.save` never writes.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{path} has {size} bytes, the limit for weights is {MAX_BYTES}")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            raise WeightsError(f"{path} is not a weights file that can be read safely: {error}") from error
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise WeightsError(f"{path} has {size} bytes and would unpack to {unpacked}; torch.save does not compress")
    return path.read_bytes()


def state_hash(state: dict[str, Tensor]) -> str:
    """sha256 (hex) of a state dict's names, dtypes, shapes and bytes; the order of names and strides do not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def to_bytes(content: object) -> bytes:
    """What `torch.save` would write, as bytes, for a caller who commits files safely."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _classes(state: dict[str, Tensor], head: Iterable[str]) -> str:
    """How many classes the classifier of a state dict tells apart: the first length of its arrays."""
    return " or ".join(sorted({str(state[name].shape[0]) for name in head if name in state and state[name].ndim}))


def _bare(name: str) -> str:
    """A name without the published wrappers' prefixes."""
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _problems(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> list[tuple[str, str]]:
    """(name, what is wrong) for every key that does not fit."""
    problems = []
    for name in sorted(wanted.keys() | given.keys()):
        if name not in given:
            problems.append((name, f"missing, needs {tuple(wanted[name].shape)}"))
        elif name not in wanted:
            problems.append((name, f"unexpected, {tuple(given[name].shape)}"))
        elif wanted[name].shape != given[name].shape:
            problems.append((name, f"has {tuple(given[name].shape)}, needs {tuple(wanted[name].shape)}"))
    return problems
