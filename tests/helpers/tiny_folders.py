"""Tiny random networks in the layout of transformers: four frames of 28 x 28, three classes."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_data import CLASSES

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: index for index, name in enumerate(CLASSES)}}
TUBELET = {"image_size": 28, "num_frames": 4, **SIZES}
JEPA = {"crop_size": 28, "frames_per_clip": 4, "mlp_ratio": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2}
PRISM = {name: value for name, value in TUBELET.items() if name != "num_hidden_layers"}
# kind -> the beginning of its classes' names, its config
KINDS = {
    "videomae": ("VideoMAE", {"patch_size": 7, "tubelet_size": 2, **TUBELET}),
    "timesformer": ("Timesformer", {"patch_size": 7, **TUBELET}),
    "vivit": ("Vivit", {"tubelet_size": [2, 7, 7], **TUBELET}),
    "vjepa2": ("VJEPA2", {"patch_size": 7, "pred_num_hidden_layers": 1, "num_pooler_layers": 1, **JEPA, **SIZES}),
    "videoprism": (
        "VideoPrism",
        {"tubelet_size": [1, 7, 7], "num_spatial_layers": 1, "num_temporal_layers": 1} | PRISM,
    ),
}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
COLOURS = {
    "vivit": {"rescale_factor": 1 / 127.5, "offset": True, "do_normalize": False},
    "vjepa2": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "videoprism": {"do_normalize": False, "rescale_factor": 1 / 255},
}


def save_folder(folder: Path, kind: str = "videomae", **settings) -> Path:
    """Write a network of this kind; the settings replace those of its config."""
    name, config = KINDS[kind]
    config_name = "VideoPrismVisionConfig" if kind == "videoprism" else f"{name}Config"
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}ForVideoClassification")(
        getattr(transformers, config_name)(initializer_range=0.3, **{**LABELS, **config, **settings})
    )
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(COLOURS.get(kind, HALF)))
    return folder
