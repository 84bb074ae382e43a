"""An experiment in one folder that needs neither its run nor the training data; read back by `load_exported`."""

import copy
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from cache.commit import write_file
from cache.errors import DamagedError
from models.checkpoint import state_hash
from models.hf_network import architecture_files, is_folder
from models.kernels.split_conv import SplitConv3d
from models.own_network import is_reference, source_file
from pipeline.config_keys import LATER
from pipeline.errors import StageError
from pipeline.predict.settings import EXPORTED, Settings, of_run
from pipeline.run.networks import build_base, build_for, build_trained
from pipeline.run.outcome import Outcome
from pipeline.run.overwrite import check_overwrite, holds

WEIGHTS, OWN_CODE, FOLDER = "model.safetensors", "network.py", "network"
READER = TypeAdapter(Settings)
README = """# {experiment}

Labels, times and boxes for videos of any length, with networks that look twice: {fusion} fusion, boxes {boxes}.
{protocol}

```python
from pipeline import focus

model = focus.load("{folder}")
for found in model.predict(["holiday.mp4"]):
    print(found.video_id, found.scores.nlargest(5), found.timeline, sep="\\n")
```

`config.json`: frame rate, window, sizes, classes, thresholds, and the identities of the weights. `{file}`:
Base's under `base.`, the second network's under `second.`. Video goes in as float32 RGB in [0, 1]; the networks
normalise colours themselves.
{more}"""
ONNX = """
`base.onnx` and `second.onnx` are the forward passes: video (B, T, H, W, 3) to logits (B, T', C). The gradient that
chooses the boxes, the cutting and the fusion are not in them.
"""
OWN = "\n`network.py` is run when the model is loaded.\n"


def run(
    run_dir: Path, out: Path, experiment: str | None, overrides: tuple[str, ...] = (), onnx: bool = False
) -> Outcome:
    """Write an experiment of a run into a folder: config.json, which comes last, model.safetensors and README.md.

    Args:
        experiment, overrides: see `settings.of_run`.
        onnx: also the forward passes, base.onnx and second.onnx.
    Raises:
        StageError: the folder holds others' files, or the packages for ONNX are not installed; and as `of_run`.
    """
    settings, base, trained = of_run(run_dir, experiment, overrides)
    if settings.looker:
        raise StageError(f"{settings.experiment}: export has no place for the looker; --experiment names another one")
    names = [EXPORTED, WEIGHTS, "README.md", OWN_CODE, FOLDER, "base.onnx", "second.onnx"]
    if out.exists() and (others := sorted(path.name for path in out.iterdir() if path.name not in names)):
        raise StageError(f"{out} holds other files, such as {others[0]}; use another --out")
    is_own = holds(b"model = focus.load(")(out / "README.md")  # which is written first
    for path in sorted(out.rglob("*")):
        check_overwrite(path, "export", lambda _: is_own)
    networks = {"base": build_base(base)}
    if trained:
        networks["second"] = build_trained(base, trained.folder, trained.weights, _frames(settings, "second"))
    out.mkdir(parents=True, exist_ok=True)
    (out / EXPORTED).unlink(missing_ok=True)
    with_code = is_reference(settings.network) and settings.network.rpartition(":")[0].endswith(".py")
    more = ONNX * onnx + OWN * with_code
    text = README.format(**settings.scored_by(), fusion=settings.fusion, folder=out, file=WEIGHTS, more=more)
    write_file(out / "README.md", text.encode())
    if with_code:
        shutil.copyfile(source_file(settings.network), out / OWN_CODE)
        settings = replace(settings, network=f"{OWN_CODE}:{settings.network.rpartition(':')[2]}")
    if is_folder(settings.network):
        (out / FOLDER).mkdir(exist_ok=True)
        for file in architecture_files(settings.network):
            shutil.copyfile(file, out / FOLDER / file.name)
        settings = replace(settings, network=f"hf:{FOLDER}")
    write_file(out / WEIGHTS, _weights(networks))
    for name, network in networks.items() if onnx else ():
        write_onnx(network, out / f"{name}.onnx", _frames(settings, name), settings.clips.input_side)
    write_file(out / EXPORTED, READER.dump_json(settings, indent=1) + b"\n")
    size = (out / WEIGHTS).stat().st_size
    return Outcome(out, f"{settings.experiment}, {size / 1e6:.1f} MB of weights")


def load_exported(folder: Path) -> tuple[Settings, nn.Module, nn.Module | None]:
    """Return the settings, Base and the second network (None for Base alone) of a folder that `run` wrote.

    Raises:
        DamagedError: a file is not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings = read_exported(folder)
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{folder / WEIGHTS}: {error}") from error
    base = _network(folder, settings, state, "base", settings.base)
    return (
        settings,
        base,
        None if settings.fusion == "none" else _network(folder, settings, state, "second", settings.weights),
    )


def read_exported(folder: Path) -> Settings:
    """Return the settings of a folder that `run` wrote; DamagedError where they are not what was written."""
    try:
        values = json.loads((folder / EXPORTED).read_bytes())
        values["clips"].setdefault("decoding", LATER["decoding"])
        return READER.validate_json(json.dumps(values))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder / EXPORTED}: {error}; export the model again") from error


def _network(folder: Path, settings: Settings, state: dict[str, Tensor], name: str, weights: str) -> nn.Module:
    reference = settings.network
    if reference.startswith(f"{OWN_CODE}:"):
        reference = f"{folder}/{reference}"
    if reference == f"hf:{FOLDER}":
        reference = f"hf:{folder / FOLDER}"
    network = build_for(reference, len(settings.classes), settings.options, _frames(settings, name))
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    if (found := state_hash(own)) != weights:
        raise DamagedError(f"{folder / WEIGHTS}: {name} has weights {found[:12]}, config.json says {weights[:12]}")
    network.load_state_dict(own)
    return network


def _frames(settings: Settings, name: str) -> int:
    """Return how many frames the network of this name, "base" or "second", sees."""
    return settings.second_frames if name == "second" else settings.clips.num_frames


def _weights(networks: dict[str, nn.Module]) -> bytes:
    from safetensors.torch import save

    named = {f"{name}.{key}": value for name, one in networks.items() for key, value in one.state_dict().items()}
    return save(
        {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in named.items()}
    )


def write_onnx(network: nn.Module, path: Path, num_frames: int, side: int) -> None:
    """Write a network's forward pass: float32 video (B, T, H, W, 3) to logits (B, T', C), for any B.

    Raises:
        StageError: the packages for ONNX are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise StageError(f"--onnx: {error.name} is not installed; pip install -e '.[onnx]'") from error
    plain = copy.deepcopy(network).eval()
    for module in plain.modules():
        if isinstance(module, SplitConv3d):
            module.__class__ = nn.Conv3d  # the same function, in one operator
    video = torch.rand(2, num_frames, side, side, 3)
    names = {"input_names": ["video"], "output_names": ["logits"], "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(plain, (video,), path, dynamo=True, external_data=False, verbose=False, **names)
