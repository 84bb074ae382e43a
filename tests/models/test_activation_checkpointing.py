"""Activation checkpointing: the same gradients, batch-norm statistics and names; blocks run again, in training only."""

import pytest
import torch
from torch import nn

from models.activation_checkpointing import run_blocks
from models.backbones import build
from models.i3d import Bottleneck, small_i3d
from pipeline.config import Training
from pipeline.run.fusion_models import Variant
from pipeline.run.stores import open_run
from pipeline.stages.train_fusion import model_facts
from pipeline.training.loader import TrainingData
from pipeline.training.loop import fit
from tests.helpers.tiny_data import change

OPTIONS = {"small_i3d": {"widths": (8, 16, 24), "blocks": (1, 2, 1)}}
SIZES = {"s3d": (16, 64, 96)}  # others 8 x 24 x 32


def trained(name, recompute, freeze=False):
    """Gradients and state of one step on a non-square video, with dropout where the network has it."""
    torch.manual_seed(0)
    network = build(name, 3, **OPTIONS.get(name, {}))
    network.activation_checkpointing = recompute
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.train(not freeze)
    frames, height, width = SIZES.get(name, (8, 24, 32))
    video = torch.rand(2, frames, height, width, 3)
    for _ in range(2):  # twice: the second step sees what the first did to batch-norm
        torch.manual_seed(1)
        network(video).square().sum().backward()
    return {name: value.grad for name, value in network.named_parameters()}, network.state_dict()


@pytest.mark.parametrize("name", ["small_i3d", "mc3_18", "s3d", "swin3d_t"])
def test_gradients_and_statistics_are_those_without(name):
    (grads, state), (found, found_state) = trained(name, False), trained(name, True)
    assert list(found_state) == list(state)
    for expected, given in ((grads, found), (state, found_state)):
        for key in expected:
            torch.testing.assert_close(given[key], expected[key], rtol=1e-4, atol=1e-6, msg=f"{name}: {key}")


def test_frozen_statistics_stay():
    fresh = small_i3d(3, **OPTIONS["small_i3d"]).state_dict()
    (grads, _), (found, state) = trained("small_i3d", False, True), trained("small_i3d", True, True)
    assert all(torch.allclose(found[key], grads[key], rtol=1e-4, atol=1e-6) for key in grads)
    assert all(torch.equal(state[key], fresh[key]) for key in state if "running" in key or "tracked" in key)


def test_what_is_batch_norm_before_is_so_after():
    """The very buffers, so that whoever holds them still does."""
    network = small_i3d(3, **OPTIONS["small_i3d"])
    network.activation_checkpointing = True
    before = {name: id(buffer) for name, buffer in network.named_buffers()}
    network(torch.rand(2, 8, 24, 32, 3)).sum().backward()
    assert {name: id(buffer) for name, buffer in network.named_buffers()} == before


@pytest.mark.parametrize(("training", "runs"), [(True, 2), (False, 1)])
def test_blocks_run_again_in_training_only(training, runs):
    network = small_i3d(3, **OPTIONS["small_i3d"]).train(training)
    network.activation_checkpointing = True
    calls = {}
    for name, module in network.named_modules():
        if isinstance(module, Bottleneck):
            module.conv1.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    network(torch.rand(1, 8, 24, 32, 3)).sum().backward()
    assert calls == dict.fromkeys(("layer1.0", "layer2.0", "layer2.1", "layer3.0"), runs)


@pytest.mark.parametrize(("blocks", "kept"), [(nn.Sequential, 3), (lambda *blocks: Subclass(*blocks), 1)])
def test_only_the_inputs_of_blocks_are_kept(blocks, kept):
    """Three blocks keep their three inputs; what only looks like a sequence is one block and keeps its own."""
    module, found = blocks(*(Bottleneck(8, 8, 1, 0.1) for _ in range(3))), []
    video = torch.rand(1, 8, 4, 6, 10)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: found.append(tensor) or tensor, lambda tensor: tensor):
        run_blocks(module, video, True)
    found = [tensor for tensor in found if tensor.numel()]  # torch 2.10 also keeps an empty mark
    assert [tensor.shape for tensor in found] == [video.shape] * kept and torch.equal(found[0], video)


class Subclass(nn.Sequential):
    pass


@pytest.mark.parametrize("recompute", [False, True])
def test_the_recipe_switches_it(tmp_path, recompute):
    seen = []

    def loss(network, batch):
        seen.append(network.activation_checkpointing)
        return network(batch[0]).square().mean()

    network = small_i3d(3, **OPTIONS["small_i3d"])
    recipe = Training(epochs=1, batch_size=2, activation_checkpointing=recompute)
    data = TrainingData(lambda *_: (torch.rand(2, 8, 24, 32, 3),), 2, loss, "test")
    fit(network, data, recipe, tmp_path, 0)
    assert seen == [recompute]


def test_it_changes_no_number_so_it_is_in_no_key(tiny_run):
    on = {"activation_checkpointing": True}
    with_it, without = (
        open_run(tiny_run.path, config) for config in (change(tiny_run.config, base=on, fusion=on), tiny_run.config)
    )
    variant = Variant("late", "entropy", "source")
    assert model_facts(with_it, variant) == model_facts(without, variant)
