"""Weights files of others: what Python 2 wrote, what is no plain array, and files that are something else."""

import io
import pickletools
import struct
import zipfile

import numpy as np
import pytest
import torch

from models.backbones import build, head_names
from models.checkpoint import WeightsError, load_weights, read_state, to_bytes
from models.i3d import inflate_2d
from models.weights_file import PICKLES


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("small_i3d", 5, widths=(8, 8, 8))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def python2(content, **numpy_values: bytes) -> bytes:
    """The file that Python 2 would have written: all text as byte strings, and texts replaced by pickled values."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    data, pieces, end = buffer.getvalue(), [], 0
    file = io.BytesIO(data)
    for _ in range(PICKLES):
        for code, text, start in pickletools.genops(file):
            if code.name == "BINUNICODE":
                value = numpy_values.get(text, b"U" + bytes([len(text)]) + text.encode())
                pieces, end = [*pieces, data[end:start], value], file.tell()
    return b"".join([*pieces, data[end:]])


def raw(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<I", len(data)) + data


def dtype(code: bytes) -> bytes:
    ends = b"J\xff\xff\xff\xff"
    return b"cnumpy\ndtype\nU\x02" + code + b"K\x00K\x01\x87R(K\x03U\x01<NNN" + ends + ends + b"K\x00tb"


def scalar(value) -> bytes:
    return b"cnumpy.core.multiarray\nscalar\n" + dtype(value.dtype.str[1:].encode()) + raw(value.tobytes()) + b"\x86R"


def array(values) -> bytes:
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    count = b"(K\x01M" + struct.pack("<H", len(values)) + b"\x85"
    return start + count + dtype(values.dtype.str[1:].encode()) + b"\x89" + raw(values.tobytes()) + b"tb"


def test_what_python_2_wrote_is_read(network, path):
    """Floats whose bytes are no text, an int, and an array of 157 classes, whose bytes make a long string."""
    state = network.state_dict()
    content = {"epoch": 3, "arch": "aj_i3d", "state_dict": state, "scores": ["SCALAR", "INT", "SHORT", "ARRAY"]}
    values = {"SCALAR": scalar(np.float64(31.27)), "INT": scalar(np.int64(7985))}
    values |= {"SHORT": array(np.float32([0.3, 0.7])), "ARRAY": array(np.linspace(0, 1, 157))}
    path.write_bytes(python2(content, **values))
    assert all(value in path.read_bytes() for value in values.values()) and len(values["ARRAY"]) > 1256
    found = read_state(path)
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_numbers_and_arrays_may_stand_beside_the_weights(network, path, zipped):
    scores = {"mAP": np.float32(0.5), "epoch": np.int32(3), "ap": np.linspace(0, 1, 157), "best": np.bool_(True)}
    content = {"state_dict": network.state_dict(), "scores": scores, "classes": np.arange(5), "rest": np.float16(2)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert read_state(path).keys() == network.state_dict().keys()


ODD = {
    "meta": lambda value: value.to("meta"),
    "sparse": lambda value: value.to_sparse(),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "nested": lambda value: torch.nested.nested_tensor(list(value)),
    "complex": lambda value: value.to(torch.complex64),
    "float8_e4m3fn": lambda value: value.to(torch.float8_e4m3fn),
    "bool": lambda value: value > 0,
    "int64": lambda value: value.long(),
    "NaN": lambda value: value * float("nan"),
    "infinite": lambda value: value.double() / 0,
    "ndarray": lambda value: value.numpy(),
    "more than the file": lambda value: value[:1, :1].expand(10**6, 10**6),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of types that it will drop
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("convert", [None, "inflate"])
def test_what_is_no_plain_array_is_refused_by_name(network, path, kind, convert):
    state = dict(network.state_dict())
    state["bn1.weight"] = ODD[kind](state["bn1.weight"].expand(3, -1).contiguous())
    path.write_bytes(to_bytes({"state_dict": state}))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    words = {"ndarray": "NumPyValue", "infinite": "infinite", "NaN": "NaN"}.get(kind, kind)
    wanted = {"NaN", "infinite"} & {kind}  # the right shape, so that only the values are wrong
    if wanted:
        state["bn1.weight"] = ODD[kind](torch.zeros_like(before["bn1.weight"]) + 1)
        path.write_bytes(to_bytes({"state_dict": state}))
    with pytest.raises(WeightsError, match=rf"(?s)weights\.pth.*  bn1\.weight .*{words}"):
        head = head_names(network) if convert else ()
        load_weights(network, path, head, bool(head), convert and (lambda state: inflate_2d(state, network)))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_numbers_that_the_network_cannot_hold_are_refused(network, path):
    """1e300 is a float64, and infinite as a float32."""
    path.write_bytes(to_bytes(network.state_dict() | {"bn1.bias": torch.full((24,), 1e300, dtype=torch.float64)}))
    with pytest.raises(WeightsError, match=r"bn1\.bias +holds NaN or infinite"):
        load_weights(network, path)


def test_a_new_head_leaves_out_what_the_old_one_holds(network, path):
    path.write_bytes(to_bytes(network.state_dict() | {"fc.bias": torch.full((7,), float("nan"))}))
    assert load_weights(network, path, head_names(network), new_head=True) == ["fc.bias", "fc.weight"]


@pytest.mark.parametrize("name", [7, b"conv1.weight", ("conv1", "weight"), None])
def test_names_that_are_no_text_are_refused(network, path, name):
    path.write_bytes(to_bytes({"state_dict": network.state_dict() | {name: torch.zeros(2)}}))
    with pytest.raises(WeightsError, match=rf"the name is {type(name).__name__}, expected text"):
        load_weights(network, path)


def test_half_precision_and_double_are_numbers(network, path):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in network.state_dict().items()
        }
        path.write_bytes(to_bytes(state))
        assert load_weights(network, path) == []


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "nothing")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "Git LFS"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"Not found\r\n", "seems to be text"),
        (bytes(range(128, 256)) * 9, "something else"),
        (archive(), "cut off, damaged, or not by torch.save"),
        (to_bytes({"w": torch.zeros(9)})[:-200], "cut off, damaged"),
        (b"\x80\x02cposix\nsystem\n.", "posix.system, which could run code"),
    ],
)
def test_a_file_that_is_something_else_says_what_it_seems_to_be(path, content, words):
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_state(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert "weights_only" not in str(error.value) and "allowlist" not in str(error.value)


def test_a_flipped_bit_in_an_archive_is_found(tmp_path):
    """torch.load does not compare the checksums of the archive's entries."""
    torch.save({"weight": torch.arange(4000.0)}, tmp_path / "good.pt")
    data = bytearray((tmp_path / "good.pt").read_bytes())
    data[data.index(torch.arange(4000.0).numpy().tobytes()[4000:4100])] ^= 16
    (tmp_path / "bad.pt").write_bytes(data)
    assert read_state(tmp_path / "good.pt")["weight"][3] == 3
    with pytest.raises(WeightsError, match=r"bad.pt is damaged: the checksum of .*data/0 in it does not fit"):
        read_state(tmp_path / "bad.pt")


@pytest.mark.parametrize("bit", [1, 128])
def test_a_flip_in_any_byte_of_an_archive_is_an_error_of_ours(tmp_path, bit):
    """Also in the headers between entries, where Python's zipfile fails in ways of its own."""
    weights = {"a": torch.arange(3.0)}
    torch.save(weights, tmp_path / "good.pt")
    data, refused = (tmp_path / "good.pt").read_bytes(), 0
    for place in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= bit
        (tmp_path / "bad.pt").write_bytes(flipped)
        try:
            assert torch.equal(read_state(tmp_path / "bad.pt")["a"], weights["a"])
        except WeightsError as error:
            refused += str(tmp_path / "bad.pt") in str(error)
    assert refused > 50


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_safetensors_are_read_as_strictly(network, tmp_path, name):
    """By suffix, or by what the file holds."""
    safetensors = pytest.importorskip("safetensors.torch")
    state = {key: value.clone(memory_format=torch.contiguous_format) for key, value in network.state_dict().items()}
    safetensors.save_file(state, tmp_path / name)
    other = build("small_i3d", 5, widths=(8, 8, 8))
    assert load_weights(other, tmp_path / name) == []
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    state["more"], state["fc.bias"] = torch.zeros(1), torch.zeros(2)
    del state["fc.weight"]
    safetensors.save_file(state, tmp_path / name)
    with pytest.raises(WeightsError) as error:
        load_weights(other, tmp_path / name)
    for key, what in (("more", "unexpected"), ("fc.bias", "has"), ("fc.weight", "missing")):
        assert any(line.split()[:2] == [key, what] or line.split()[:2] == [key, f"{what},"]
                   for line in str(error.value).splitlines())  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02cposix\nsystem\n.", "no safetensors file but a pickled one"),
        (to_bytes({"w": torch.zeros(9)}), "no safetensors file but a pickled one"),
        (b"\xff" * 40, "is no safetensors file"),
        (b"", "is no safetensors file"),
    ],
)
def test_what_only_has_the_name_of_safetensors_is_refused(tmp_path, content, words):
    pytest.importorskip("safetensors.torch")
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=f"weights.safetensors {words}|weights.safetensors is {words}"):
        read_state(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (("net/data.pkl", "net/code/__torch__.py"), "an archive of TorchScript, which holds a program"),
        (("net/models/model.json", "net/archive_format"), "an archive of torch.export, which holds a program"),
    ],
)
def test_archives_with_programs_are_refused(tmp_path, entries, words):
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as file:
        for entry in entries:
            file.writestr(entry, "nothing")
    with pytest.raises(WeightsError, match=words):
        read_state(tmp_path / "net.pt2")
