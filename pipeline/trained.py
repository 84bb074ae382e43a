"""A trained network as a folder: weights.pt, and a sealed record that says what it was made from and which weights."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from cache.errors import DamagedError
from cache.vouched import read_vouched, write_vouched
from models.checkpoint import load_weights, state_hash, to_bytes

WEIGHTS = "weights.pt"


def write_trained(record: Path, state: Mapping[str, Tensor], facts: dict) -> dict:
    """Commit weights.pt beside the record, then the record.

    Args:
        record: base.json or model.json in the network's folder.
        state: state dict on the CPU.
        facts: plain JSON, what the network was made from.
    Returns:
        the facts with `weights`, the identity of the state dict.
    """
    facts = facts | {"weights": state_hash(dict(state))}
    record.parent.mkdir(parents=True, exist_ok=True)
    write_vouched(record, facts, {WEIGHTS: to_bytes(dict(state))})
    return facts


def read_trained(record: Path) -> dict:
    """The facts of a trained network.

    Raises:
        DamagedError: the record is not what was written.
    """
    return read_vouched(record, "weights")


def load_trained(network: nn.Module, folder: Path, weights: str) -> None:
    """Load weights.pt of a folder into a network.

    Args:
        weights: their identity, as the record has it.
    Raises:
        DamagedError: they are others: a bit flipped on the disk, or a file that was replaced.
        WeightsError: the file cannot be read, or does not fit the network.
    """
    load_weights(network, folder / WEIGHTS)
    found = state_hash(network.state_dict())
    if found != weights:
        raise DamagedError(
            f"{folder / WEIGHTS} holds weights {found[:12]}, its record says {weights[:12]}; "
            "`verify --repair` moves it aside, then train again: it goes on from the last checkpoint"
        )
