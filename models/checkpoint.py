"""Weights of a network: loaded strictly, hashed, written; nothing is ever downloaded."""

import hashlib
import io
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from models.weights_file import WeightsError, read_state

log = logging.getLogger(__name__)

# Before the names in published files: of DataParallel, and of PyVideoResearch's networks around a base.
PREFIXES = ("module.", "basenet.")


def load_weights(
    network: nn.Module,
    path: Path | str,
    head: Iterable[str] = (),
    new_head: bool = False,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    finite: bool = True,
) -> list[str]:
    """Load a weights file into a network: everything, or nothing. Return the names that were left as they are.

    The file, of `torch.save`, holds a state dict, or a dict with one under one of STATE_KEYS. PREFIXES are removed from
    its names; `convert`, such as `i3d.inflate_2d`, then turns it into the network's. With new_head, the names in `head`
    (see `backbones.head_names`) are left as they are; so are batch-norm counters that old files lack. With finite=False
    NaN and infinite values are loaded as well: those of a network of ours whose training diverged.

    OSError where the file cannot be read; WeightsError where it holds other objects than tensors and numbers, or where
    names, all of which are listed, are missing, unexpected, of another shape or kind of number, or not finite.
    """
    wanted, state = network.state_dict(), read_state(path)
    found = {_without_prefixes(name): value for name, value in state.items()}
    if len(found) < len(state):
        raise WeightsError(f"{path} has names that are the same without the prefixes {', '.join(PREFIXES)}")
    left = set(head) if new_head else set()
    problems = _other_kinds(wanted, found, left)
    found = convert(found) if convert and not problems else found
    # counters that nothing reads; files older than PyTorch 0.4.1 do not have them
    kept = {name for name in wanted.keys() - found.keys() if name.endswith(".num_batches_tracked")}
    kept = sorted(kept | left)
    found |= {name: wanted[name] for name in kept}
    if problems := problems or _misfits(wanted, found) or (_not_finite(wanted, found) if finite else {}):
        table = "\n".join(f"  {name:<48} {what}" for name, what in problems.items())
        hint = ""
        if not new_head and problems.keys() <= set(head) and _classes(found, head) != _classes(wanted, head):
            hint = f"\nOnly the classifier differs: the file has {_classes(found, head)} classes, the network "
            hint += f"{_classes(wanted, head)}. With --new-head it starts anew and the rest is loaded."
        raise WeightsError(f"{path} does not fit the network:\n{table}{hint}")
    network.load_state_dict(found)
    log.info("loaded %d arrays from %s, left as they were: %s", len(found) - len(kept), path, kept or "none")
    return kept


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


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _classes(state: dict[str, Tensor], head: Iterable[str]) -> str:
    """Say how many classes a state dict's classifier has: the first length of its arrays."""
    return " or ".join(sorted({str(state[name].shape[0]) for name in head if name in state and state[name].ndim}))


def _other_kinds(wanted: dict[str, Tensor], found: dict[str, Tensor], left: set[str]) -> dict[str, str]:
    """Say which values, but for names in `left`, would be turned into another kind of number, such as bool to float."""
    kinds = (torch.is_floating_point, lambda value: value.dtype is torch.bool)
    return {
        name: f"has {str(found[name].dtype)[6:]} numbers, needs {str(wanted[name].dtype)[6:]}"
        for name in sorted((wanted.keys() & found.keys()) - left)
        if any(kind(wanted[name]) != kind(found[name]) for kind in kinds)
    }


def _not_finite(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, str]:
    """Say which values, as numbers of the network's size, are NaN or infinite."""
    finite = {name: bool(found[name].to(value.dtype).isfinite().all()) for name, value in wanted.items()}
    return {name: "holds NaN or infinite values" for name in sorted(finite) if not finite[name]}


def _misfits(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, str]:
    """Say for every name that is missing, unexpected or of another shape what is wrong with it."""
    problems = {}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            problems[name] = f"missing, needs {tuple(wanted[name].shape)}"
        elif name not in wanted:
            problems[name] = f"unexpected, {tuple(found[name].shape)}"
        elif wanted[name].shape != found[name].shape:
            problems[name] = f"has {tuple(found[name].shape)}, needs {tuple(wanted[name].shape)}"
    return problems
