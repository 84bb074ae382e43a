"""A network of the user's own: a function in a Python file or an installed package, which is imported and called."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

REFERENCE = re.compile(r"(?P<place>.+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z_]\w*)")


class NetworkError(ValueError):
    """A network that cannot be built, or breaks the contract; the message names it and says what was expected."""

    exit_code = 4  # what a command ends with


def is_reference(name: str) -> bool:
    """Say whether a name is FILE.py:function or package.module:function, not hf:FOLDER or one of our BACKBONES."""
    return not name.startswith("hf:") and REFERENCE.fullmatch(name) is not None


def source_file(name: str) -> Path:
    """Return the file that holds the function of a reference; NetworkError where there is none."""
    place = REFERENCE.fullmatch(name)["place"]
    if place.endswith(".py"):
        path = Path(place)
    else:
        try:
            spec = importlib.util.find_spec(place)
        except ImportError as error:
            raise NetworkError(f"network {name}: {error}") from error
        path = Path(spec.origin) if spec and spec.origin else Path(place)
    if not path.is_file():
        raise NetworkError(f"network {name}: no such file or module as {place}; paths are relative to {Path.cwd()}")
    return path


def build_own(name: str, num_classes: int, options: Mapping[str, object]) -> nn.Module:
    """Import the module of a reference, which runs its code, and call its function.

    The function gets `num_classes` and the options by name, and returns a module that keeps the contract of
    models/README.md. Logits (B, C) become (B, 1, C).

    Raises:
        NetworkError: no such function; it fails, or returns something else than a module.
    """
    function = REFERENCE.fullmatch(name)["function"]
    make = getattr(_import(name), function, None)
    if not callable(make):
        raise NetworkError(f"network {name}: {source_file(name)} has no function {function}")
    try:
        network = make(num_classes=num_classes, **options)
    except (Exception, SystemExit) as error:  # of the user's code: any
        called = ", ".join(f"{key}={value!r}" for key, value in {"num_classes": num_classes, **options}.items())
        raise NetworkError(f"network {name}: {function}({called}) fails: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"network {name}: {function} returns {type(network).__name__}, expected a torch.nn.Module")
    if any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters()):
        raise NetworkError(f"network {name}: {function} returns lazy layers; give each its size")
    for attribute, value in {"head_name": "", "last_block": "", "channels_last": False, "patch_embedding": ""}.items():
        if not hasattr(network, attribute):
            setattr(network, attribute, value)
    network.activation_checkpointing, network.foldable = False, False
    network.register_forward_hook(per_time)
    return network


def _import(name: str) -> ModuleType:
    """Import the module of a reference; a file under a name of its own, once in a process."""
    place, path = REFERENCE.fullmatch(name)["place"], source_file(name)
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        module_name = f"own_network_{path.resolve()}"
        if module_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(module_name, path)
            sys.modules[module_name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[module_name])
        return sys.modules[module_name]
    except (Exception, SystemExit) as error:  # of the user's code: any
        sys.modules.pop(f"own_network_{path.resolve()}", None)
        raise NetworkError(f"network {name}: {path} cannot be imported: {type(error).__name__}: {error}") from error


def per_time(_: nn.Module, __: tuple, logits: object) -> Tensor:
    """Give logits (B, C) one time step; a forward hook."""
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 3):
        found = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise NetworkError(f"the network returns {found}, expected logits (B, classes) or (B, time steps, classes)")
    return logits if logits.ndim == 3 else logits[:, None]


def check_contract(network: nn.Module, num_frames: int, side: int, num_classes: int) -> None:
    """Try a network in eval mode on two random clips, forward and backward; leave it as it was.

    Raises:
        NetworkError: one sentence about the first of these that does not hold: logits (2, T', num_classes), finite; the
            video is not written to; the same logits again; a clip's logits do not depend on the other clip; a gradient
            at the video that is finite and not zero; it runs in train mode.
    """
    training = network.training
    network.eval()
    try:
        shape = (2, num_frames, side, side, 3)
        video = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        video = video.to(next((value.device for value in network.parameters()), "cpu")).requires_grad_()
        before, copy = video.detach().clone(), video.detach().clone()
        try:
            with torch.no_grad():  # else torch's own error would not say who writes to the input
                again = network(copy)
                if not torch.equal(copy, before):
                    raise NetworkError("the network writes to its input; work on a copy, not in place")
            logits = network(video)
            gradient = None
            if logits.requires_grad:
                (gradient,) = torch.autograd.grad(logits.sum(), video, allow_unused=True)
        except NetworkError:
            raise
        except (Exception, SystemExit) as error:  # of the user's code: any
            told = " ".join(str(error).split())  # one line
            raise NetworkError(f"the network fails on clips {shape}: {type(error).__name__}: {told}") from error
        if logits.shape[0] != 2 or logits.shape[2] != num_classes:
            wanted = f"(2, time steps, {num_classes})"
            raise NetworkError(f"the network gives logits {tuple(logits.shape)} for clips {shape}, expected {wanted}")
        if not logits.isfinite().all():
            raise NetworkError("the network's logits of random clips are not finite")
        if not torch.equal(again, logits):
            raise NetworkError("the network gives other logits the second time; in eval mode nothing may be random")
        with torch.no_grad():
            alone = torch.cat([network(before[:1]), network(before[1:])])
        if not torch.allclose(alone, logits, rtol=1e-3, atol=1e-4):
            raise NetworkError("a clip's logits depend on the clips beside it; normalise by stored statistics instead")
        if gradient is None or not gradient.isfinite().all() or not gradient.any():
            what = "missing" if gradient is None else "not finite" if not gradient.isfinite().all() else "zero"
            raise NetworkError(f"the gradient of the logits at the video is {what}, so there is no saliency")
        _check_train_mode(network, before)
    finally:
        network.train(training)


def _check_train_mode(network: nn.Module, video: Tensor) -> None:
    """Raise NetworkError where the network fails in train mode; its state, such as of batch-norm, stays as it is."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        with torch.random.fork_rng(devices=[video.device] if video.device.type == "cuda" else []), torch.no_grad():
            network.train()(video)
    except (Exception, SystemExit) as error:  # of the user's code: any
        shape = tuple(video.shape)
        raise NetworkError(
            f"in train mode the network fails on clips {shape}: {type(error).__name__}: {error}"
        ) from error
    finally:
        network.load_state_dict(state)


def check_rebuilt(network: nn.Module, again: nn.Module, num_frames: int, side: int) -> None:
    """Compare a network with another one that its function built, once that has its state; leave both in eval mode.

    Raises:
        NetworkError: they give other logits, so something that matters is not in the state dict.
    """
    again.load_state_dict(network.state_dict())
    device = next((value.device for value in network.parameters()), "cpu")
    video = torch.rand((1, num_frames, side, side, 3), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        if not torch.equal(network.eval()(video), again.to(device).eval()(video)):
            raise NetworkError(
                "the network's function builds another network each time: make what it draws at random a parameter "
                "or a persistent buffer, so that it is stored with the weights"
            )
