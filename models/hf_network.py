"""Networks from a local folder in the layout of transformers' `save_pretrained`; nothing is ever fetched."""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.own_network import NetworkError, per_time
from models.weights_file import WeightsError

PREFIX = "hf:"
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
WEIGHTS = "model.safetensors"
# of config.json, what [base.options] must not replace: classes, and what says which network it is
NOT_OPTIONS = ("num_labels", "id2label", "label2id", "model_type", "architectures", "dtype", "torch_dtype")


class Family(NamedTuple):
    """Names in one kind of network of transformers."""

    model: str  # its class
    patches: str  # the convolution that embeds patches
    positions: str = ""  # position embeddings that know time; "" where any number of frames fits


# by model_type of config.json
FAMILIES = {
    "videomae": Family(
        "VideoMAEForVideoClassification",
        "videomae.embeddings.patch_embeddings.projection",
        "videomae.embeddings.position_embeddings",
    ),
    "timesformer": Family(
        "TimesformerForVideoClassification",
        "timesformer.embeddings.patch_embeddings.projection",
        "timesformer.embeddings.time_embeddings",
    ),
    "vivit": Family(
        "VivitForVideoClassification",
        "vivit.embeddings.patch_embeddings.projection",
        "vivit.embeddings.position_embeddings",
    ),
    "vjepa2": Family("VJEPA2ForVideoClassification", "vjepa2.encoder.embeddings.patch_embeddings.proj"),
    "videoprism_vision_model": Family(
        "VideoPrismForVideoClassification",
        "vision_model.spatial_embeddings.patch_embeddings.projection",
        "vision_model.temporal_embeddings.position_embeddings",
    ),
}


def is_folder(name: str) -> bool:
    """Say whether the name of a network is hf:FOLDER."""
    return name.startswith(PREFIX)


def architecture_files(name: str) -> list[Path]:
    """Return config.json and the preprocessor's file of hf:FOLDER; NetworkError where one is not there."""
    folder = Path(name.removeprefix(PREFIX))
    if not (folder / "config.json").is_file():
        what = "no config.json" if folder.is_dir() else f"no such folder; paths are relative to {Path.cwd()}"
        raise NetworkError(f"network {name}: {what}; expected what save_pretrained writes, nothing is downloaded")
    found = [folder / one for one in PREPROCESSORS if (folder / one).is_file()]
    if not found:
        example = '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
        raise NetworkError(
            f"network {name}: no {PREPROCESSORS[0]}, which says how its colours are normalised; put that of the "
            f"published network there, or one like {example} with the values it was trained with"
        )
    return [folder / "config.json", found[0]]


def weights_files(name: str) -> list[Path]:
    """Return the safetensors files of hf:FOLDER; WeightsError where there are none."""
    folder = Path(name.removeprefix(PREFIX))
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        return [index, *(folder / one for one in sorted(set(_json(index).get("weight_map", {}).values())))]
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    which = f"{', '.join(pickles)} could run code and is not read; " if pickles else ""
    raise WeightsError(
        f"network {name}: no {WEIGHTS}; {which}load it where you trust it and save it with save_pretrained"
    )


def label_names(name: str) -> list[str]:
    """Return the names of the classes of hf:FOLDER by index; transformers calls those without a name LABEL_0, ..."""
    return [label for _, label in sorted(_config(name)[1].id2label.items())]


def build_folder(name: str, num_classes: int, options: Mapping[str, object]) -> nn.Module:
    """Build the network that config.json of hf:FOLDER describes, with random weights.

    It takes RGB in [0, 1], (B, T, H, W, 3), which it normalises as the preprocessor's file says, and keeps the contract
    of models/README.md and the state names of transformers. The options replace values of config.json.

    Raises:
        NetworkError: transformers, or a file of the folder, is missing; or they describe no network that is known.
    """
    family, config = _config(name)
    for key in options:
        if key not in config.to_dict() or key in NOT_OPTIONS:
            raise NetworkError(f"base.options.{key}: config.json of {name} has no such setting, or it is not yours")
    try:
        for key, value in options.items():
            setattr(config, key, value)
        config.num_labels = num_classes
        network = _model(family)(config)
    except (Exception, SystemExit) as error:  # config.json and the options can hold any values
        changed = f" with base.options {dict(options)}" if options else ""
        raise NetworkError(f"network {name}: its config.json{changed} makes no network: {error}") from error
    return _as_network(network, family, name)


def load_folder(network: nn.Module, name: str, new_head: bool = False) -> list[str]:
    """Load the weights of hf:FOLDER into its network: everything, or nothing. Return the names left as they are.

    With new_head these are the names of the classifier.

    Raises:
        WeightsError: no safetensors; names, all of which are listed, are missing, unexpected, of another shape or not
            finite; or the folder has another number of classes than the network.
    """
    family, folder_config = _config(name)
    weights_files(name)  # refuses pickles
    config = copy.deepcopy(network.config)  # with the options, which may change what there is to load
    config.num_labels = folder_config.num_labels
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}  # for the table: they are refused below
    try:
        with _quiet():
            loaded, found = _model(family).from_pretrained(Path(name.removeprefix(PREFIX)), config=config, **options)
    except Exception as error:  # a broken file can fail in any way; all are reported by name
        raise WeightsError(f"network {name}: its weights cannot be read: {error}") from error
    wanted, state = network.state_dict(), loaded.state_dict()
    problems = dict.fromkeys(found["missing_keys"], "missing") | dict.fromkeys(found["unexpected_keys"], "unexpected")
    problems |= {key: f"has {tuple(has)}, needs {tuple(needs)}" for key, has, needs in found["mismatched_keys"]}
    problems |= {key: "holds NaN or infinite values" for key, value in state.items() if not value.isfinite().all()}
    head = sorted(key for key in wanted if key.startswith(f"{network.head_name}."))
    if new_head:
        problems = {key: what for key, what in problems.items() if key not in head}
    if problems:
        table = "\n".join(f"  {key:<48} {problems[key]}" for key in sorted(problems))
        raise WeightsError(f"the weights of {name} do not fit its config.json:\n{table}")
    if not new_head and (one := next((key for key in head if state[key].shape != wanted[key].shape), None)):
        raise WeightsError(
            f"{name} has {len(state[one])} classes and the class list {len(wanted[one])}; "
            "base.new_head = true puts a new classifier in its place and keeps the rest"
        )
    network.load_state_dict({key: wanted[key] if new_head and key in head else state[key] for key in wanted})
    return head if new_head else []


def _config(name: str) -> tuple[Family, object]:
    """Read config.json of hf:FOLDER: the family, and transformers' own config."""
    path = architecture_files(name)[0]
    kind = _json(path).get("model_type")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise NetworkError(f"{path}: model_type {kind!r} is none of {known}; FILE.py:function takes other networks")
    model = _model(FAMILIES[kind])
    try:
        with _quiet():
            return FAMILIES[kind], model.config_class.from_pretrained(path.parent, local_files_only=True)
    except Exception as error:  # any value may stand in it
        raise NetworkError(f"{path} cannot be read: {error}") from error


def _model(family: Family) -> type:
    try:
        import transformers  # an extra
    except ImportError as error:
        raise NetworkError("hf: networks need transformers: python -m pip install -e '.[hf]'") from error
    found = getattr(transformers, family.model, None)
    if found is None:
        raise NetworkError(f"transformers {transformers.__version__} has no {family.model}; install a newer one")
    return found


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NetworkError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise NetworkError(f"{path}: expected a table, found {type(found).__name__}")
    return found


def _as_network(network: nn.Module, family: Family, name: str) -> nn.Module:
    """Give a network of transformers the attributes of the contract, and RGB (B, T, H, W, 3) as its input."""
    config = network.config
    network.head_name, network.last_block, network.channels_last = "classifier", "", False
    network.activation_checkpointing, network.foldable = False, False
    network.patch_embedding, network.time_positions = family.patches, family.positions
    side = getattr(config, "crop_size", None) or config.image_size
    tubelet = getattr(config, "tubelet_size", 1)
    patch = getattr(config, "patch_size", None) or tubelet[1:]
    network.input_side = side if isinstance(side, int) else side[0]
    network.patch_size = (tubelet if isinstance(tubelet, int) else tubelet[0], *_pair(patch))
    network.num_frames = config.num_frames if family.positions else 0
    if family.model.startswith("VJEPA2"):
        network.vjepa2.predictor.requires_grad_(False)  # of its first training, not used for classes
    try:
        colours = _colours(name)
    except (TypeError, ValueError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"{architecture_files(name)[1]} has colours that are no numbers: {error}") from error
    for part, values in zip(("rgb_scale", "rgb_shift"), colours, strict=True):
        network.register_buffer(part, values, persistent=False)
    network.register_forward_pre_hook(_normalised)
    network.register_forward_hook(_logits)
    return network


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _colours(name: str) -> tuple[Tensor, Tensor]:
    """Return scale and shift, (3,) or (1,), of RGB in [0, 1], from the preprocessor's file: rgb * scale + shift.

    What it leaves out is as in transformers: values of 0 to 255 divided by 255, of ViViT by 127.5, less 1.
    """
    config, path = architecture_files(name)
    given, vivit = _json(path), _json(config)["model_type"] == "vivit"
    scale = 255 * given.get("rescale_factor", 1 / 127.5 if vivit else 1 / 255) if given.get("do_rescale", True) else 255
    offset = float(given.get("offset", vivit) and given.get("do_rescale", True))
    if not given.get("do_normalize", True):
        return torch.tensor([scale], dtype=torch.float32), torch.tensor([-offset])
    if missing := {"image_mean", "image_std"} - given.keys():
        raise NetworkError(f"{path} has no {' and no '.join(sorted(missing))}, by which colours are normalised")
    mean, std = (torch.tensor(given[one], dtype=torch.float64).reshape(-1) for one in ("image_mean", "image_std"))
    return (scale / std).float(), ((-offset - mean) / std).float()


def _normalised(network: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Turn RGB (B, T, H, W, 3) into what transformers takes, (B, T, 3, H, W); a forward pre-hook."""
    return (inputs[0] * network.rgb_scale + network.rgb_shift).permute(0, 1, 4, 2, 3)


def _logits(network: nn.Module, inputs: tuple, output: tuple) -> Tensor:
    """Take the logits (B, 1, C) out of an output of transformers; a forward hook."""
    return per_time(network, inputs, output[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing: what is wrong becomes an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
