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

# Before the names in published files: of DataParallel, and of PyVideoResearch's networks around a base.
PREFIXES = ("module.", "basenet.")
# Where the state dict lies in a file that holds more than it.
STATE_KEYS = ("state_dict", "model_sdict", "model")
# Scores in published files are NumPy floats. Apart from them, only tensors and plain containers are allowed.
NUMPY_TYPES = [
    scalar,
    (scalar, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]
MAX_BYTES = 8 << 30


class WeightsError(ValueError):
    """A weights file that cannot be read safely or does not fit the network; the message names every key."""

    exit_code = 4  # what a command ends with


def load_weights(
    network: nn.Module,
    path: Path | str,
    head: Iterable[str] = (),
    new_head: bool = False,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> list[str]:
    """Load a weights file into a network: everything, or nothing. Return the names that were left as they are.

    The file, of `torch.save`, holds a state dict, or a dict with one under one of STATE_KEYS. PREFIXES are removed from
    its names; `convert`, such as `i3d.inflate_2d`, then turns it into the network's. With new_head, the names in `head`
    (see `backbones.head_names`) are left as they are; so are batch-norm counters that old files lack.

    OSError where the file cannot be read; WeightsError where it holds other objects than tensors and numbers, or where
    names, all of which are listed, are missing, unexpected or of another shape.
    """
    wanted, state = network.state_dict(), read_state(path)
    found = {_without_prefixes(name): value for name, value in state.items()}
    if len(found) < len(state):
        raise WeightsError(f"{path} has names that are the same without the prefixes {', '.join(PREFIXES)}")
    found = convert(found) if convert else found
    # counters that nothing reads; files older than PyTorch 0.4.1 do not have them
    kept = {name for name in wanted.keys() - found.keys() if name.endswith(".num_batches_tracked")}
    kept = sorted(kept | set(head) if new_head else kept)
    found |= {name: wanted[name] for name in kept}
    if problems := _problems(wanted, found):
        table = "\n".join(f"  {name:<48} {what}" for name, what in problems.items())
        hint = ""
        if not new_head and problems.keys() <= set(head):
            hint = f"\nOnly the classifier differs: the file has {_classes(found, head)} classes, the network "
            hint += f"{_classes(wanted, head)}. With --new-head it starts anew and the rest is loaded."
        raise WeightsError(f"{path} does not fit the network:\n{table}{hint}")
    network.load_state_dict(found)
    log.info("loaded %d arrays from %s, left as they were: %s", len(found) - len(kept), path, kept or "none")
    return kept


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Read the state dict of a weights file onto the CPU, with the file's own names.

    OSError where the file cannot be read; WeightsError where it is broken, would run code, or holds no state dict.
    """
    data = _read_bounded(Path(path))
    try:
        with torch.serialization.safe_globals(NUMPY_TYPES):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can fail in any way; all are reported by name
        raise WeightsError(f"{path} is not a weights file that can be read safely: {error}") from error
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(f"{path} has no state dict, neither itself nor under {', '.join(STATE_KEYS)}: found {found}")
    return state


def state_hash(state: dict[str, Tensor]) -> str:
    """Compute the SHA-256 (hex) of names, dtypes, shapes and bytes of a state dict; its order does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def to_bytes(content: object) -> bytes:
    """Return what `torch.save` would write, for a caller that commits files safely."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _read_bounded(path: Path) -> bytes:
    """Read a file, unless it is too large or an archive with compressed entries, which `torch.save` never writes."""
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


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _classes(state: dict[str, Tensor], head: Iterable[str]) -> str:
    """Say how many classes a state dict's classifier has: the first length of its arrays."""
    return " or ".join(sorted({str(state[name].shape[0]) for name in head if name in state and state[name].ndim}))


def _problems(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, str]:
    """Say for every name that does not fit what is wrong with it."""
    problems = {}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            problems[name] = f"missing, needs {tuple(wanted[name].shape)}"
        elif name not in wanted:
            problems[name] = f"unexpected, {tuple(found[name].shape)}"
        elif wanted[name].shape != found[name].shape:
            problems[name] = f"has {tuple(found[name].shape)}, needs {tuple(wanted[name].shape)}"
    return problems
