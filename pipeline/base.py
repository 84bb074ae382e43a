"""Charades-Base as the other stages use it: which weights, their identity, and the network built from them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cache.remote import fetch_vouched
from models.backbones import build
from pipeline.trained import load_trained, read_trained
from pipeline.workspace import StageError, Workspace


@dataclass(frozen=True)
class BaseWeights:
    """A trained Base: its folder, its identity (sha256 of the state dict), and the shape of its logits."""

    folder: Path
    sha256: str
    num_classes: int
    out_frames: int


def load_base(workspace: Workspace) -> BaseWeights:
    """The Base of this config.

    Raises:
        StageError: it is not trained yet.
    """
    about = workspace.base_folder / "base.json"
    if not about.exists() and workspace.parts:  # reading the plan refuses a config with other clips, by name
        raise StageError(f"{workspace.base_folder}: no trained Base for this config; run train-base first")
    facts = read_trained(about)
    return BaseWeights(workspace.base_folder, facts["weights"], facts["num_classes"], facts["out_frames"])


def build_base(workspace: Workspace, base: BaseWeights) -> nn.Module:
    """Base's network with its weights, on the CPU.

    Raises:
        WeightsError: the file does not fit the network.
        DamagedError: it holds other weights than were committed.
    """
    fetch_vouched(base.folder / "base.json")
    network = build(workspace.config.base.network, base.num_classes)
    load_trained(network, base.folder, base.sha256)
    return network


def count_out_frames(network: nn.Module, num_frames: int, side: int) -> int:
    """T_out of a network for clips of num_frames at side x side; changes nothing in the network."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return network(torch.zeros(1, num_frames, side, side, 3)).shape[1]
    finally:
        network.train(training)
