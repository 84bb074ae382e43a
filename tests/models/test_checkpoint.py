"""Weights files: strict, safe, hashed."""

import hashlib
import os
import struct

import numpy as np
import pytest
import torch

from models.backbones import build, head_names
from models.checkpoint import WeightsError, load_weights, state_hash, to_bytes

SMALL = {"widths": (8, 8, 8)}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("small_i3d", 5, **SMALL)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def other(num_classes=5):
    torch.manual_seed(1)
    return build("small_i3d", num_classes, **SMALL)


def assert_equal(network, state):
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("key", ["state_dict", "model_sdict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "basenet.", "module.basenet."])
def test_published_wrappings_load(network, path, key, prefix):
    state = other().state_dict()
    wrapped = {prefix + name: value for name, value in state.items()}
    path.write_bytes(to_bytes({key: wrapped, "epoch": 3, "arch": "aj_i3d"} if key else wrapped))
    assert load_weights(network, path) == []
    assert_equal(network, state)


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_published_numpy_scores_are_let_in(network, path, module):
    """NumPy floats under their new and their old name, in the file format of 2018."""
    scores = {"mAP": np.float64(31.27), "loss": np.float32(0.5)}
    content = {"epoch": 3, "arch": "aj_i3d", "state_dict": other().state_dict(), "scores": scores}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert data.count(b"cnumpy._core.multiarray\nscalar\n") == 1
    path.write_bytes(data.replace(b"numpy._core.multiarray", module))
    load_weights(network, path)
    assert_equal(network, other().state_dict())


def test_batch_norm_counters_of_old_files_may_be_missing(network, path):
    state = {name: value for name, value in other().state_dict().items() if "num_batches" not in name}
    path.write_bytes(to_bytes(state))
    assert len(load_weights(network, path)) == 13  # stem, 3 blocks of 3, 3 shortcuts
    assert torch.equal(network.bn1.weight, state["bn1.weight"]) and network.bn1.num_batches_tracked == 0


def test_names_that_fall_together_are_refused(network, path):
    path.write_bytes(to_bytes(other().state_dict() | {"module.conv1.weight": torch.zeros(1)}))
    with pytest.raises(WeightsError, match="the same without the prefixes"):
        load_weights(network, path)


def test_a_file_that_would_run_code_is_refused(network, path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path.with_suffix(".ran")),)

    torch.save({"state_dict": other().state_dict(), "bomb": Bomb()}, path)
    with pytest.raises(WeightsError, match=r"weights\.pth.*safely"):
        load_weights(network, path)
    assert not path.with_suffix(".ran").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [1, 2], {"state_dict": {"fc.weight": 1}}])
def test_a_file_without_a_state_dict_is_refused(network, path, content):
    path.write_bytes(to_bytes(content))
    with pytest.raises(WeightsError, match="has no state dict"):
        load_weights(network, path)


def test_a_broken_file_is_refused_and_a_missing_one_named(network, path):
    path.write_bytes(to_bytes(other().state_dict())[:-100])
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        load_weights(network, path)
    with pytest.raises(FileNotFoundError):
        load_weights(network, path.with_name("none.pth"))


def test_every_key_that_does_not_fit_is_named_and_nothing_is_loaded(network, path):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = dict(other().state_dict())
    del state["bn1.running_mean"]
    state["layer9.weight"] = torch.zeros(2, 3)
    state["conv1.weight"] = torch.zeros(24, 3, 5, 7, 7)
    path.write_bytes(to_bytes(state))
    with pytest.raises(WeightsError) as caught:
        load_weights(network, path, head_names(network))
    message = str(caught.value)
    assert "bn1.running_mean" in message and "missing, needs (24,)" in message
    assert "layer9.weight" in message and "unexpected, (2, 3)" in message
    assert "has (24, 3, 5, 7, 7), needs (24, 3, 3, 5, 5)" in message
    assert "bn1.running_var" not in message and "--new-head" not in message
    assert_equal(network, before)


def test_another_number_of_classes_is_refused_with_a_hint(network, path):
    path.write_bytes(to_bytes(other(7).state_dict()))
    with pytest.raises(WeightsError, match="--new-head"):
        load_weights(network, path, head_names(network))


def test_new_head_loads_all_but_the_classifier(network, path):
    head = {name: value.clone() for name, value in network.state_dict().items() if name.startswith("fc.")}
    path.write_bytes(to_bytes(other(7).state_dict()))
    assert load_weights(network, path, head_names(network), new_head=True) == ["fc.bias", "fc.weight"]
    assert_equal(network, other(7).state_dict() | head)


def test_new_head_is_strict_about_the_rest(network, path):
    state = {name: value for name, value in other(7).state_dict().items() if name != "bn1.weight"}
    path.write_bytes(to_bytes(state))
    with pytest.raises(WeightsError, match=r"bn1\.weight +missing"):
        load_weights(network, path, head_names(network), new_head=True)


def test_hash_is_that_of_names_types_shapes_and_bytes():
    content = b"a\0torch.float32\0(1, 2)\0" + struct.pack("<2f", 1, -2) + b"b\0torch.int64\0()\0" + struct.pack("<q", 7)
    state = {"b": torch.tensor(7), "a": torch.tensor([[1.0, -2.0]])}
    assert state_hash(state) == hashlib.sha256(content).hexdigest()


def test_hash_ignores_order_and_strides_only():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.tensor([], dtype=torch.bfloat16)}
    expected = state_hash(state)
    assert state_hash(dict(reversed(state.items()))) == expected
    assert state_hash(state | {"a": state["a"].T.contiguous().T}) == expected
    assert state_hash({"x": torch.arange(6)[::2]}) == state_hash({"x": torch.tensor([0, 2, 4])})
    for change in (
        {"a": state["a"].reshape(3, 2)},
        {"a": state["a"].double()},
        {"a": state["a"] + 1},
        {"b": state["b"].int()},
        {"d": state["b"]},
    ):
        assert state_hash(state | change) != expected
    assert state_hash({"x": state["b"]}) != state_hash({"y": state["b"]})


def test_bytes_are_a_file(path, network):
    path.write_bytes(to_bytes({"state_dict": network.state_dict(), "step": 12}))
    content = torch.load(path, weights_only=True)
    assert content["step"] == 12 and content["state_dict"].keys() == network.state_dict().keys()
