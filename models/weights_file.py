"""Weights files as bytes: read without running code, and refused with what they seem to be."""

import io
import pickletools
import re
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

# Where the state dict lies in a file that holds more than it.
STATE_KEYS = ("state_dict", "model_sdict", "model")
MAX_BYTES = 8 << 30
PICKLES = 5  # at the head of a file that is no ZIP archive: magic number, format, machine, content, names of arrays
WEB_PAGE = "a web page, such as that of a link; download the file itself"
# what other files begin with
BEGINNINGS = {
    b"<!doctype": WEB_PAGE,
    b"<html": WEB_PAGE,
    b"<?xml": WEB_PAGE,
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file that it stands for",
    b"\x1f\x8b": "a file compressed with gzip; unpack it first",
    b"\x89hdf": "an HDF5 file; only files of torch.save and safetensors are read",
}


class WeightsError(ValueError):
    """A weights file that cannot be read safely or does not fit the network; the message names every key."""

    exit_code = 4  # what a command ends with


class NumPyValue:
    """Stands for every NumPy number and array beside the weights, such as scores; their values are not read."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


# Apart from tensors, plain containers, numbers and text, only these names may stand in a file.
ALLOWED = [
    *((NumPyValue, f"numpy.core.multiarray.{name}") for name in ("scalar", "_reconstruct")),  # before NumPy 2
    *((NumPyValue, f"numpy._core.multiarray.{name}") for name in ("scalar", "_reconstruct")),
    *((NumPyValue, f"numpy.{name}") for name in ("dtype", "ndarray")),
]


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Read the state dict of a weights file onto the CPU, with the file's own names.

    OSError where the file cannot be read; WeightsError where it is broken, would run code, or holds no state dict of
    names and plain arrays.
    """
    data = _read_bounded(Path(path))
    header = int.from_bytes(data[:8], "little")  # its length, where this is a file of safetensors
    if Path(path).suffix == ".safetensors" or (data[8:9] == b"{" and header < len(data)):
        return _checked(path, _read_safetensors(path, data), len(data))
    try:
        with torch.serialization.safe_globals(ALLOWED):
            content = torch.load(io.BytesIO(_with_text(data)), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can fail in any way; all are reported by name
        raise WeightsError(f"{path} is not a weights file that can be read safely: {_reason(data, error)}") from error
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise WeightsError(f"{path} has no state dict, neither itself nor under {', '.join(STATE_KEYS)}: found {found}")
    return _checked(path, state, len(data))


def _read_safetensors(path: Path | str, data: bytes) -> dict[str, Tensor]:
    """Read what safetensors wrote; WeightsError where that is not installed or `data` is something else."""
    try:
        from safetensors import SafetensorError  # an extra
        from safetensors.torch import load
    except ImportError as error:
        raise WeightsError(f"{path} needs safetensors: python -m pip install -e '.[hf]'") from error
    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        what = f"is no safetensors file: {error}"
        if data.startswith((b"PK", b"\x80")):
            what = "is no safetensors file but a pickled one; where torch.save wrote it, its name should end in .pt"
        raise WeightsError(f"{path} {what}") from error


def _checked(path: Path | str, state: dict, num_bytes: int) -> dict[str, Tensor]:
    """Return a state dict of plain arrays; WeightsError names the entries that are none."""
    problems = {name: _not_plain(name, value, num_bytes) for name, value in state.items()}
    if problems := {name: what for name, what in problems.items() if what}:
        table = "\n".join(f"  {name!s:<48} {what}" for name, what in problems.items())
        raise WeightsError(f"{path} has no state dict of plain arrays:\n{table}")
    return state


def _not_plain(name: object, value: object, num_bytes: int) -> str:
    """Say why an entry of a state dict is no named array of numbers that a file of num_bytes can hold; or ""."""
    if not isinstance(name, str):
        return f"the name is {type(name).__name__}, expected text"
    if type(value) not in (Tensor, nn.Parameter):
        return f"is {type(value).__name__}, expected a tensor"
    kinds = {"meta": value.is_meta, "quantised": value.is_quantized, "nested": value.is_nested}
    kinds |= {"sparse": value.layout is not torch.strided, "complex": value.is_complex()}
    if kind := next((kind for kind, found in kinds.items() if found), ""):
        return f"is a {kind} tensor, expected a plain one"
    if value.is_floating_point() and value.element_size() < 2:
        return f"has {str(value.dtype)[6:]} numbers, expected at least 16 bits"
    if value.numel() * value.element_size() > num_bytes:
        return f"has {tuple(value.shape)}, more than the file of {num_bytes} bytes can hold"
    return ""


def _read_bounded(path: Path) -> bytes:
    """Read a file, unless it is too large or an archive with compressed entries, which `torch.save` never writes."""
    size = path.stat().st_size
    if not path.is_file():
        raise WeightsError(f"{path} is no regular file")
    if size > MAX_BYTES:
        raise WeightsError(f"{path} has {size} bytes, the limit for weights is {MAX_BYTES}")
    data = path.read_bytes()
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [entry.filename.partition("/")[2] for entry in archive.infolist()]
            unpacked = sum(entry.file_size for entry in archive.infolist())
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            broken = archive.testzip() if plain and unpacked <= size else None  # torch.load looks at no checksum
    except Exception as error:  # a flipped bit makes zipfile fail in many ways: UnicodeDecodeError, struct.error
        raise WeightsError(f"{path} is not a weights file that can be read safely: {error}") from error
    kind = "torch.export" if "archive_format" in names else ""
    kind = "TorchScript" if any(name.startswith("code/") for name in names) else kind
    if kind:
        raise WeightsError(f"{path} is an archive of {kind}, which holds a program; save the state_dict alone")
    if unpacked > size or not plain:
        raise WeightsError(f"{path} has {size} bytes and would unpack to {unpacked}; torch.save does not compress")
    if broken is not None:
        raise WeightsError(f"{path} is damaged: the checksum of {broken} in it does not fit; get it anew")
    return data


def _with_text(data: bytes) -> bytes:
    """Write the byte strings of a file of Python 2, names as well as NumPy's values, as text of latin1 characters."""
    if data.startswith(b"PK"):  # Python 2 never wrote ZIP archives
        return data
    file, pieces, end = io.BytesIO(data), [], 0
    try:
        for _ in range(PICKLES):
            for code, text, start in pickletools.genops(file):
                if code.name in ("SHORT_BINSTRING", "BINSTRING"):
                    written = text.encode()
                    pieces += [data[end:start], b"X", struct.pack("<I", len(written)), written]
                    end = file.tell()
    except ValueError:  # PyTorch says what is wrong
        return data
    return b"".join([*pieces, data[end:]]) if pieces else data


def _reason(data: bytes, error: Exception) -> str:
    """Say why a file could not be read, without PyTorch's advice to read it unsafely."""
    if not data:
        return "it is empty"
    start = data[:512].lstrip().lower()
    if kind := next((kind for beginning, kind in BEGINNINGS.items() if start.startswith(beginning)), ""):
        return f"it seems to be {kind}"
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it asks for {named[1]}, which could run code; save the network's state_dict alone"
    if data.startswith((b"PK", b"\x80\x02")):
        return "it seems to be cut off, damaged, or not by torch.save"
    kind = "text" if start.isascii() and re.sub(rb"\s", b"", start).decode().isprintable() else "something else"
    return f"it seems to be {kind}; expected a file that torch.save or safetensors wrote"
