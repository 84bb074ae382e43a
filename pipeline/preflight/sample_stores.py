"""What the stores make of sampled rows: bytes and files of a unit, written by the stores into a spare run."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cache.plan import Part
from cache.plan_files import write_part
from cache.stores.volume_store import VolumeStore, unit_bytes
from cache.stores.zarr_store import ZarrStore
from pipeline.config import Config, clip_settings
from pipeline.preflight.sample_clips import CODECS, SampledVideo
from pipeline.run.folder import Workspace
from pipeline.run.stores import open_base, open_boxes, open_context, open_crops, open_maps

WEIGHTS = "0" * 64  # any Base will do


@dataclass(frozen=True)
class StoreCost:
    """One product of one plan part: what its rows, its units and the part itself add.

    Attributes:
        row_bytes: of data. data_files: of a unit. record_bytes: of a unit's commit record.
        part_bytes, part_files: of what describes the product.
        num_frames: of a volume; 0 for a Zarr store, whose files hold nothing but data.
    """

    row_bytes: float
    data_files: int
    record_bytes: int
    part_bytes: int
    part_files: int
    num_frames: int = 0

    def of_unit(self, num_rows: int) -> float:
        """Bytes of a unit of so many rows, its record included."""
        data = self.row_bytes * num_rows
        return self.record_bytes + (unit_bytes(round(data), num_rows, self.num_frames) if self.num_frames else data)

    @property
    def unit_files(self) -> int:
        """Data, record and lock."""
        return self.data_files + 2


@dataclass(frozen=True)
class SampledStores:
    """Costs by ("base",), ("maps", objective), ("boxes",), ("context", codec), ("crops", codec).

    `plan_bytes`: of one part's files.
    """

    costs: dict
    plan_bytes: int


def measure_stores(config: Config, videos: list[SampledVideo], folder: Path) -> SampledStores:
    """Write all sampled rows of one split as one unit of every product.

    Args:
        videos: of one split.
        folder: an empty one, for a run that nobody keeps.
    """
    part, looked = _part(config, videos), [video for video in videos if video.logits is not None]
    plan = write_part(folder, part)
    plan_bytes = sum(path.stat().st_size for path in (plan, plan.with_suffix(".parquet")))
    costs = {}
    if looked:
        costs |= _arrays(config, looked, folder)
    for codec in CODECS:
        workspace = Workspace(folder, _with_codec(config, codec))
        stores = {"context": open_context(workspace, part)}
        stores["crops"] = open_crops(workspace, part, WEIGHTS, "random", "source")
        for product, store in stores.items():
            rows = [row for video in videos for row in video.encoded[product, codec]]
            size = sum(len(frame) for row in rows for frame in row) / len(rows)
            costs[product, codec] = _commit(store, rows, size, part.num_frames)
    return SampledStores(costs, plan_bytes)


def _part(config: Config, videos: list[SampledVideo]) -> Part:
    """The sampled rows of some videos of one split as a part of one unit."""
    split = videos[0].part.split
    rows = pd.concat([video.part.rows.iloc[video.rows] for video in videos], ignore_index=True)
    return Part(f"part-000-{split}", split, rows, len(videos[0].rows), len(videos), clip_settings(config))


def _arrays(config: Config, videos: list[SampledVideo], folder: Path) -> dict:
    """Costs of base, maps and boxes."""
    part, workspace = _part(config, videos), Workspace(folder, config)
    logits = np.concatenate([video.logits for video in videos])
    store = open_base(workspace, part, WEIGHTS, *logits.shape[1:])
    crc = np.concatenate([video.crc for video in videos])
    values = {"logits": logits, "entropy": logits.mean((1, 2)), "frame_crc": crc}
    costs = {("base",): _commit(store, values)}
    for name in config.saliency.objectives:
        codes, scale = zip(*(one for video in videos for one in video.maps[name]), strict=True)
        values = {"codes": np.stack(codes), "scale": np.array(scale, np.float32)}
        costs["maps", name] = _commit(open_maps(workspace, part, WEIGHTS, name), values)
    boxes = np.random.default_rng(0).integers(0, part.input_size[0], (part.num_rows, 4)).astype(np.int32)
    share = boxes[:, 0].astype(np.float32) / 100
    values = {"box_input": boxes, "box_source": 2 * boxes, "saliency_share": share}
    return costs | {("boxes",): _commit(open_boxes(workspace, part, WEIGHTS, "random"), values)}


def _commit(store: ZarrStore | VolumeStore, values, row_bytes: float | None = None, num_frames: int = 0) -> StoreCost:
    """Write unit 0, then look at what lies on disk."""
    product = store.product
    with product.lock(0):
        store.write_unit(0, values)
    files = [path for path in product.path.rglob("*") if path.is_file()]
    data = [path for path in files if path.parent.name == "volumes" or "c" in path.relative_to(product.path).parts]
    record = product.path / "done" / "000000.json"
    own = {*data, record, product.path / "locks" / "000000"}
    rest = [path for path in files if path not in own]
    if row_bytes is None:
        row_bytes = sum(path.stat().st_size for path in data) / store.part.num_rows
    part_bytes = sum(path.stat().st_size for path in rest)
    return StoreCost(row_bytes, len(data), record.stat().st_size, part_bytes, len(rest), num_frames)


def _with_codec(config: Config, codec: str) -> Config:
    return replace(config, crops=replace(config.crops, codec=codec))
