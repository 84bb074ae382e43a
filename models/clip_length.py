"""Networks that take clips of one length and size alone, and their position embeddings for another length."""

import torch
import torch.nn.functional as F
from torch import nn

from models.own_network import NetworkError


def check_clips(network: nn.Module, network_name: str, num_frames: int, side: int) -> None:
    """Raise NetworkError where the attributes `num_frames` or `input_side` of a network ask for other clips.

    0, or no such attribute, stands for any.
    """
    wanted = {"num_frames": getattr(network, "num_frames", 0), "input_side": getattr(network, "input_side", 0)}
    for name, found in {"num_frames": num_frames, "input_side": side}.items():
        if wanted[name] not in (0, found):
            raise NetworkError(f"{network_name} takes clips.{name} = {wanted[name]} alone, and it is {found}")


def interpolate_positions(network: nn.Module, num_frames: int) -> None:
    """Interpolate a network's position embeddings linearly along time, in place, for clips of num_frames.

    They are (1, N, D), or (1, class tokens + N, D), time outermost, under the name in `time_positions`; `num_frames`
    says for how many frames they were made, `patch_size[0]` for how many frames each.
    """
    name = getattr(network, "time_positions", "")
    if not name:
        raise NetworkError("position embeddings are interpolated where the network names them in time_positions only")
    owner, _, leaf = name.rpartition(".")
    owner, tubelet = network.get_submodule(owner), network.patch_size[0]
    old, steps = getattr(owner, leaf), network.num_frames // tubelet
    tokens = old.shape[1] % steps if steps > 1 else 0
    by_step = old[:, tokens:].detach().unflatten(1, (steps, -1)).flatten(2).transpose(1, 2)  # 1, places x D, T'
    new = F.interpolate(by_step, size=num_frames // tubelet, mode="linear", align_corners=False)
    new = new.transpose(1, 2).reshape(1, -1, old.shape[2])
    new = torch.cat([old[:, :tokens].detach(), new], 1)
    setattr(owner, leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    network.num_frames = num_frames
    if hasattr(getattr(network, "config", None), "num_frames"):  # TimeSformer's blocks read it
        network.config.num_frames = num_frames
