"""How weights move: the optimiser and its groups, the rate of a step, what is frozen, the average that is kept."""

import difflib
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer

from pipeline.config import Training
from pipeline.errors import StageError

# a numbered module that holds an attention: "encoder.layer.3." of "encoder.layer.3.attention.query.weight"
_BLOCK = re.compile(r"(.*?\b(?:\d+\.)+)\w*att(?:n|ention)\w*\.")


def make_optimiser(network: nn.Module, training: Training) -> Optimizer:
    """Freeze what `freeze` names, and return the optimiser of the network's parameters.

    Weight decay of "adamw" is on parameters of two dimensions or more whose name ends in "weight": those of linear
    layers and convolutions. Norms, biases, class tokens and position embeddings have none. That of "sgd" is on all.
    `momentum` is the first beta of "adamw"; the second is 0.999.

    Raises:
        StageError: as `freeze` and `layer_scales`.
    """
    freeze(network, training.freeze)
    scales, groups = layer_scales(network, training.layer_decay), {}
    for name, parameter in network.named_parameters():
        decays = training.optimizer == "sgd" or (parameter.ndim > 1 and name.endswith("weight"))
        groups.setdefault((scales[name], training.weight_decay if decays else 0.0), []).append(parameter)
    groups = [{"params": own, "lr_scale": scale, "weight_decay": decay} for (scale, decay), own in groups.items()]
    if training.optimizer == "adamw":
        return AdamW(groups, training.learning_rate, (training.momentum, 0.999))
    return SGD(groups, training.learning_rate, training.momentum)


def stored_copies(training: Training) -> int:
    """Return how many numbers a checkpoint holds of each weight: itself, its moments, its average."""
    return 1 + (2 if training.optimizer == "adamw" else 1) + (training.ema_decay > 0)


def learning_rate(training: Training, number: int, per_epoch: int) -> float:
    """Return the learning rate of one step of the optimiser.

    With W steps of warm-up, N steps in all, and r = `learning_rate`, the rate of step s is
    r (s + 1) / W for s < W (Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2.2), then for "cosine"
    r (1 + cos(pi (s - W) / (N - W))) / 2 (Loshchilov and Hutter, SGDR, 2017, eq. 5, without restarts), and for "steps"
    r divided by ten at each of `drop_epochs` (paper 5.3).

    Args:
        number: of the step, from 0, counted over all epochs.
        per_epoch: steps of the optimiser in an epoch.
    """
    rate, warmup = training.learning_rate, training.warmup_epochs * per_epoch
    if number < warmup:
        return rate * (number + 1) / warmup
    if training.schedule == "cosine":
        return rate * (1 + math.cos(math.pi * (number - warmup) / (training.epochs * per_epoch - warmup))) / 2
    return rate * 0.1 ** sum(number >= drop * per_epoch for drop in training.drop_epochs)


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Give each group its rate; those of checkpoints from before layer decay have no scale."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def layer_scales(network: nn.Module, decay: float) -> dict[str, float]:
    """Return the factor of the learning rate by parameter name: decay^(depth of the top - its own depth).

    Depths are those of BEiT and VideoMAE: 0 before the first block (patch and position embeddings), 1 to L in the
    blocks, L + 1 after the last one and in the classifier. A block is a numbered module that holds an attention, such
    as `blocks.3`, `encoder.layer.3`, or `features.2.1` of torchvision's Swin. Of several kinds the one with the most
    blocks counts. Other parameters belong where they are registered; between two blocks, to the one before.

    Raises:
        StageError: there is no block.
    """
    names = [name for name, _ in network.named_parameters()]
    if decay == 1:
        return dict.fromkeys(names, 1.0)
    kinds: dict[str, dict[str, int]] = {}  # by name without numbers: prefix of each block, and its depth
    for name in names:
        if match := _BLOCK.match(name):
            blocks = kinds.setdefault(re.sub(r"\d+", "N", match[1]), {})
            blocks.setdefault(match[1], len(blocks) + 1)
    if not kinds:
        raise StageError(
            "layer_decay: the network has no blocks of a transformer, which are numbered modules that hold an "
            "attention, such as blocks.3.attn; set layer_decay = 1"
        )
    blocks = max(kinds.values(), key=len)
    top, depth, scales = len(blocks) + 1, 0, {}
    for name in names:
        inside = next((own for prefix, own in blocks.items() if name.startswith(prefix)), 0)
        depth = inside or (depth if depth < len(blocks) else top)
        in_head = _is_within(name, getattr(network, "head_name", ""))
        scales[name] = 1.0 if in_head else decay ** (top - depth)
    return scales


def freeze(network: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Let the parameters of these names, and of the modules of these names, require no gradient.

    Raises:
        StageError: a name that no parameter or module has, or nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(_is_within(name, prefix) for name in names):
            known = {".".join(parts[: end + 1]) for parts in map(_parts, names) for end in range(len(parts))}
            near = difflib.get_close_matches(prefix, sorted(known), n=3) or sorted({_parts(name)[0] for name in names})
            raise StageError(f"freeze: no parameter of the network is {prefix!r} or in it; near are {', '.join(near)}")
    for name, parameter in network.named_parameters():
        if any(_is_within(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
    if prefixes and not any(parameter.requires_grad for parameter in network.parameters()):
        raise StageError(f"freeze: {', '.join(prefixes)} are all parameters; leave out what is to learn, as the head")


def train_mode(network: nn.Module, training: Training) -> None:
    """Set train mode; the statistics of batch-norm stay as they are where it is frozen, or the module is."""
    network.train()
    for name, module in network.named_modules():
        frozen = training.batchnorm == "frozen" or any(_is_within(name, prefix) for prefix in training.freeze)
        if frozen and isinstance(module, _BatchNorm):
            module.eval()


class Average:
    """Exponential moving average of the weights and buffers of a network; whole numbers, which count, are copied.

    average = d average + (1 - d) weights after each step of the optimiser, d = min(decay, (1 + n) / (10 + n)) in step
    n = 1, 2, ..., so that short trainings forget their start, too (TensorFlow's ExponentialMovingAverage, num_updates).
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay, self.state = decay, {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, number: int) -> None:
        """Take in the weights after step `number`, from 1, of the whole training."""
        decay = min(self.decay, (1 + number) / (10 + number))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a stored average."""
        for name, value in state.items():
            self.state[name].copy_(value)


def _is_within(name: str, prefix: str) -> bool:
    """Say whether a dotted name is a prefix itself, or in the module of this name: blocks.10 is not in blocks.1."""
    return f"{name}.".startswith(f"{prefix.removesuffix('.')}.")


def _parts(name: str) -> list[str]:
    return name.split(".")
