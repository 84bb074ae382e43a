"""torch.compile changes no state name and no number beyond the tolerance of float32."""

import copy

import pytest
import torch
from torch import nn

from models.compiled import compile_network
from models.frozen.fold import fold
from models.i3d import small_i3d
from models.losses import negative_entropy
from models.own_network import NetworkError
from models.saliency import input_saliency


class Small(nn.Module):
    foldable = False

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, video):
        return torch.tanh(self.head(video)).mean((2, 3))


def test_training_and_saliency_are_as_without():
    torch.manual_seed(0)
    plain, video = Small(), torch.rand(2, 4, 8, 8, 3)
    try:
        compiled = compile_network(copy.deepcopy(plain))
    except NetworkError as error:
        pytest.skip(f"torch.compile needs a C++ compiler: {error}")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    calls = []
    torch._dynamo.reset()
    compiled.compile(backend=lambda graph, _: calls.append(1) or graph)  # what is called is the compiled network
    compiled(video)
    assert calls
    compile_network(compiled)
    for network in (plain, compiled):
        network(video).square().mean().backward()
    torch.testing.assert_close(compiled.head.weight.grad, plain.head.weight.grad, rtol=1e-5, atol=1e-6)
    frozen = compile_network(fold(plain))
    logits, maps = input_saliency(frozen, video, {"entropy": negative_entropy})
    expected_logits, expected = input_saliency(fold(plain), video, {"entropy": negative_entropy})
    torch.testing.assert_close(logits, expected_logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps["entropy"], expected["entropy"], rtol=1e-3, atol=1e-7)
    assert copy.deepcopy(frozen)._compiled_call_impl is None


def test_a_frozen_i3d_and_what_is_not_wanted_stay_as_they_are():
    frozen, plain = fold(small_i3d(5, widths=(8, 8, 8))), Small()
    assert compile_network(frozen)._compiled_call_impl is compile_network(plain, False)._compiled_call_impl is None


def test_without_a_compiler_it_is_one_sentence(monkeypatch):
    def fails(_):
        raise RuntimeError("no compiler\nand many lines")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(NetworkError, match=r"base.compile = true, but .* \(RuntimeError: no compiler\); on a CPU"):
        compile_network(Small())
