"""What every product of the cache is made from: settings that become its key, and its open store."""

import numpy as np

from cache.plan import Part
from cache.stores.product_folder import open_product
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ArraySpec, ZarrStore
from models.frozen.fold import ENGINE
from pipeline.config import OBJECTIVES, POLICIES, Pixels, Policy
from pipeline.errors import StageError
from pipeline.run.folder import Workspace
from pipeline.run.networks import BaseWeights


def base_settings(workspace: Workspace, part: Part, weights: str) -> dict:
    """Base's logits: its weights (sha256 of the state dict), the clips, and how the numbers are computed.

    Batch size, threads and engine change the order in which a sum is taken, and so its last digits.
    """
    config = workspace.config
    return {
        "network": config.base.network,
        "weights": weights,
        "precision": config.saliency.precision,
        "batch_size": config.saliency.batch_size,
        "threads": config.saliency.threads,
        "engine": ENGINE,
        "clips": part.settings,
    }


def maps_settings(workspace: Workspace, part: Part, weights: str, objective: str) -> dict:
    """Saliency maps. Labels count only where the objective uses them."""
    settings = {
        "method": workspace.config.saliency.method,
        "objective": objective,
        "base": base_settings(workspace, part, weights),
    }
    if objective == "cross_entropy":
        settings["labels"] = workspace.labels_sha256
        settings["video_loss_weight"] = workspace.config.base.video_loss_weight
    return settings


def boxes_settings(workspace: Workspace, part: Part, weights: str, policy: Policy) -> dict:
    """Boxes: of a saliency map, random, or in the centre."""
    side = workspace.config.saliency.box_side
    settings = {"policy": policy, "size": [side, side]}
    if policy in OBJECTIVES:
        settings["maps"] = maps_settings(workspace, part, weights, policy)
    elif policy == "random":
        settings["seed"] = workspace.config.clips.plan_seed
    elif policy != "center":
        raise StageError(f"boxes {policy!r} is none of {', '.join(POLICIES)}")
    return settings


def context_settings(workspace: Workspace, part: Part) -> dict:
    """V_in as stored for temporal concatenation and Repeat."""
    return {"codec": workspace.config.crops.codec, "quality": _quality(workspace), "clips": part.settings}


def crops_settings(workspace: Workspace, part: Part, weights: str, policy: Policy, pixels: Pixels) -> dict:
    """Focused volumes: which boxes, and whether cut from the source or enlarged from the input."""
    if pixels not in ("source", "input"):
        raise StageError(f"pixels {pixels!r} is none of source, input")
    return {
        "pixels": pixels,
        "codec": workspace.config.crops.codec,
        "quality": _quality(workspace),
        "clips": part.settings,
        "boxes": boxes_settings(workspace, part, weights, policy),
    }


def _quality(workspace: Workspace) -> int:
    """Of JPEG; a lossless codec has none that could change a byte."""
    return workspace.config.crops.quality if workspace.config.crops.codec == "jpeg" else 0


def open_base(workspace: Workspace, part: Part, weights: str, out_frames: int, num_classes: int) -> ZarrStore:
    """logits float32 (T_out, C), entropy float32, frame_crc uint32 (T,) of the decoded source frames."""
    specs = [
        ArraySpec("logits", (out_frames, num_classes), "f4", "unit"),
        ArraySpec("entropy", (), "f4", "unit"),
        ArraySpec("frame_crc", (part.num_frames,), "u4", "unit"),
    ]
    return ZarrStore.create(
        open_product(workspace.source, "base", part, base_settings(workspace, part, weights)), specs
    )


def open_maps(workspace: Workspace, part: Part, weights: str, objective: str) -> ZarrStore:
    """codes uint16 (H_in, W_in) and scale float32: the map is codes * scale, in the input frame."""
    specs = [ArraySpec("codes", part.input_size, "u2", "row"), ArraySpec("scale", (), "f4", "unit")]
    return ZarrStore.create(
        open_product(workspace.source, "maps", part, maps_settings(workspace, part, weights, objective)), specs
    )


def open_boxes(workspace: Workspace, part: Part, weights: str, policy: Policy) -> ZarrStore:
    """box_input, box_source int32 (top, left, height, width) and saliency_share float32, the box's share of the map."""
    specs = [
        ArraySpec("box_input", (4,), "i4", "unit"),
        ArraySpec("box_source", (4,), "i4", "unit"),
        ArraySpec("saliency_share", (), "f4", "unit"),
    ]
    return ZarrStore.create(
        open_product(workspace.source, "boxes", part, boxes_settings(workspace, part, weights, policy)), specs
    )


def open_context(workspace: Workspace, part: Part) -> VolumeStore:
    """Volumes uint8 (T, H_in, W_in, 3) of V_in."""
    return VolumeStore(open_product(workspace.source, "context", part, context_settings(workspace, part)))


def open_crops(workspace: Workspace, part: Part, weights: str, policy: Policy, pixels: Pixels) -> VolumeStore:
    """Volumes uint8 (T, H_in, W_in, 3), focused."""
    settings = crops_settings(workspace, part, weights, policy, pixels)
    return VolumeStore(open_product(workspace.source, "crops", part, settings))


def boxes_of(workspace: Workspace, base: BaseWeights, part: Part, policy: Policy) -> np.ndarray:
    """box_input of every row of a part, int32 (rows, 4); zeros where a video was left out."""
    store = open_boxes(workspace, part, base.sha256, policy)
    done = store.product.rows_done()
    values = np.zeros((part.num_rows, 4), np.int32)
    values[done] = store.read_rows("box_input", np.flatnonzero(done))
    return values
