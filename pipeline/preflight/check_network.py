"""check-network: what the network of a config takes, gives and costs here, and whether it keeps the contract."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbones import build, head_names
from models.clip_length import check_clips
from models.frozen.fold import fold
from models.objectives import MapKind, saliency_maps
from models.operations import count_operations
from models.own_network import check_contract
from pipeline.config import Config
from pipeline.data.strict_csv import read_classes
from pipeline.errors import AnnotationError, StageError
from pipeline.preflight.finding import Finding, judged
from pipeline.run.precision_check import LOWEST_OVERLAP, box_agreement
from pipeline.training.optimiser import make_optimiser
from pipeline.workers.device import median_seconds, pick_device
from pipeline.workers.peak_memory import peak_bytes, reset_peak

CLASSES = 10  # where no class list is there yet


def examine(config: Config) -> Iterator[Finding]:
    """Yield what is found of the network with random weights, on random clips of the config's length and size."""
    device, base, clips = pick_device(config.device), config.base, config.clips
    classes, shape = _num_classes(config), (clips.num_frames, clips.input_side, clips.input_side, 3)
    torch.manual_seed(0)
    try:
        network = build(base.network, classes, **dict(base.options)).to(device)
    except ValueError as error:
        yield Finding("network", "problem", str(error), "models/README.md says what is called, and with what")
        return
    count = sum(parameter.numel() for parameter in network.parameters())
    yield Finding("network", "ok", f"{base.network}, {count:,} parameters, {classes} classes, on {device}")
    try:
        check_clips(network, base.network, clips.num_frames, clips.input_side)
        check_contract(network, clips.num_frames, clips.input_side, classes)
    except (ValueError, RuntimeError) as error:
        fix = "models/README.md, 'Your network in ten minutes', has it; or other clips.num_frames, clips.input_side"
        yield Finding("contract", "problem", str(error), fix)
        return
    video = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)).to(device)
    frozen = fold(network)
    steps = frozen(video).shape[1]
    yield Finding("contract", "ok", f"float32 (B, {', '.join(map(str, shape))}) to logits (B, {steps}, {classes})")
    yield from _attributes(network, frozen)
    if config.saliency.gradient_at == "patches":
        try:
            saliency_maps(frozen, video, ["entropy"], MapKind(gradient_at="patches"))
        except ValueError as error:
            yield Finding("patch_embedding", "problem", str(error), "models/README.md, 'Your network in ten minutes'")
            return
    yield _cost("forward pass", lambda: frozen(video), device)
    kind = MapKind(gradient_at=config.saliency.gradient_at)
    yield _cost("saliency pass", lambda: saliency_maps(frozen, video, ["entropy"], kind), device)
    found = box_agreement(frozen, video, replace(config.saliency, objectives=("entropy",)))
    moved = found.overlap < LOWEST_OVERLAP
    yield judged("bfloat16", moved, f"{found}; of one random clip", "keep saliency.precision = float32")
    for section, recipe in (("base", base), ("fusion", config.fusion)):
        try:
            make_optimiser(network, recipe)
        except StageError as error:
            yield Finding("recipe", "problem", f"{section}.{error}", "pipeline/training/README.md has the settings")


def _num_classes(config: Config) -> int:
    try:
        return len(read_classes(Path(config.data.classes)))
    except (AnnotationError, OSError):
        return CLASSES


def _attributes(network: nn.Module, frozen: nn.Module) -> Iterator[Finding]:
    """Say what is left out for want of attributes, and which batch-norm layers are folded."""
    if not head_names(network):
        yield Finding("head_name", "note", "no classifier is named: base.new_head is refused", "set head_name")
    if not network.last_block:
        yield Finding("last_block", "note", "no last block is named: grad_cam is refused", "set last_block")
    before, after = (sum(isinstance(one, _BatchNorm) for one in of.modules()) for of in (network, frozen))
    if before:
        yield Finding(
            "batch-norm", "ok", f"{before - after} of {before} layers are folded into convolutions for saliency"
        )


def _cost(name: str, run: Callable[[], Tensor | tuple], device: torch.device) -> Finding:
    """Count the operations of one pass over one clip, and time it."""
    with torch.set_grad_enabled(name != "forward pass"):
        operations = count_operations(run)
        reset_peak()
        seconds = median_seconds(run, device)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()  # of the whole process
    text = f"{operations / 1e9:,.3g} GFLOP, {seconds:.3g} s here, peak memory {memory / 1e6:,.0f} MB"
    return Finding(name, "ok", f"{text}, for one clip")
