"""The stores of a run: what each is made from, which becomes its key, and the open store."""

from functools import wraps
from pathlib import Path

import numpy as np

from cache.layout import LOSSLESS
from cache.plan import Part
from cache.stores.open_product import find_product, is_started, open_product
from cache.stores.product_folder import ProductDir
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ArraySpec, ZarrStore
from models.frozen.fold import NUMERICS_VERSION
from models.losses import LossTerms
from pipeline.box_settings import box_axis, num_looks, num_segments, rule_settings
from pipeline.config import MAPS, PIXELS, POLICIES, Config, Pixels, Policy
from pipeline.config_keys import task_settings, without_later
from pipeline.errors import StageError
from pipeline.run.folder import RunFolder, open_folder, own_boxes_sha256
from pipeline.run.fusion_models import Variant
from pipeline.run.looker_weights import TEACHER, looker_facts, looker_folder, looker_sha256
from pipeline.run.networks import BaseWeights, load_base, own_network


def _kept(open_store):
    """Keep what a method of Stores has opened, for the next call with the same arguments."""

    @wraps(open_store)
    def opened(self, part: Part, *names: str):
        key = (open_store.__name__, part.name, *names)
        if key not in self._open:
            self._open[key] = open_store(self, part, *names)
        return self._open[key]

    return opened


class Stores:
    """The stores of a run for one config and one Base, each opened once.

    A method `<product>_settings` says what a store of a plan part is made from: plain JSON, the source of its key.

    Args:
        own_boxes_sha256: the identity of the table of the policy "own", where it is known; it need not be there then.
        to_write: make what is not there; else nothing is written, and a store that is not there has no row.
    """

    def __init__(
        self, run: RunFolder, config: Config, base: BaseWeights, own_boxes_sha256: str = "", to_write: bool = False
    ):
        self.run, self.config, self.base_weights, self.to_write = run, config, base, to_write
        self.own_boxes_sha256 = own_boxes_sha256
        self._open: dict[tuple, ZarrStore | VolumeStore] = {}

    def base_settings(self, part: Part) -> dict:
        """Base's logits: its weights, the clips, and how the numbers are computed.

        Batch size, threads and engine change the order in which a sum is taken, and so its last digits.
        """
        saliency = self.config.saliency
        return {
            "network": self.config.base.network,
            "weights": self.base_weights.sha256,
            "precision": saliency.precision,
            "batch_size": saliency.batch_size,
            "threads": saliency.threads,
            "engine": NUMERICS_VERSION,
            "clips": part.settings,
            **own_network(self.config),
            **without_later({"options": self.config.base.options, "compile": self.config.base.compile}),
            **task_settings(self.config),  # what `entropy` is
        }

    def maps_settings(self, part: Part, objective: str) -> dict:
        """Saliency maps. Labels count only where the objective uses them; "motion" is of the clips alone."""
        if objective == "looker":
            weights = looker_sha256(self.looker_folder)
            return {"method": "looker", "objective": objective, "looker": weights, "base": self.base_settings(part)}
        in_time = without_later({"time_segments": self.config.saliency.time_segments})
        if objective == "motion":
            return {"method": "frame_difference", "objective": objective, "clips": part.settings, **in_time}
        method = self.config.saliency.method
        settings = {"method": method, "objective": objective, "base": self.base_settings(part), **in_time}
        if method == "grad_cam":  # before, the maximum over time was enlarged
            settings["time_maximum"] = "of enlarged maps"
        else:
            settings |= without_later({"gradient_at": self.config.saliency.gradient_at})
        if objective == "cross_entropy":
            settings["labels"] = self.run.labels_sha256
            settings |= without_later(LossTerms.of(self.config.base)._replace(label_smoothing=0.0)._asdict())
        return settings

    @property
    def looker_folder(self) -> Path:
        """The folder of the looker that this config trains."""
        parts = self.run.parts_of("train")
        maps = {part.name: self.maps_settings(part, TEACHER) for part in parts}
        return looker_folder(self.run, looker_facts(self.run, self.base_weights.sha256, self.config.seed, maps))

    def boxes_settings(self, part: Part, policy: Policy) -> dict:
        """Boxes: of a map, random, in the centre, or of a table. Raises StageError for another policy."""
        saliency = self.config.saliency
        settings = {"policy": policy, **rule_settings(saliency, policy)}
        if saliency.box_jitter:
            settings["jitter_seed"] = self.config.clips.plan_seed
        if policy in MAPS:
            settings["maps"] = self.maps_settings(part, policy)
        elif policy == "own":
            self.own_boxes_sha256 = self.own_boxes_sha256 or own_boxes_sha256(saliency.own_boxes)
            settings["own_boxes"] = self.own_boxes_sha256
        elif policy == "random":
            settings["seed"] = self.config.clips.plan_seed
            if self.config.seed:  # 0 draws the boxes that all seeds had before
                settings["training_seed"] = self.config.seed
        elif policy != "center":
            raise StageError(f"boxes {policy!r} is none of {', '.join(POLICIES)}")
        return settings

    def context_settings(self, part: Part) -> dict:
        """V_in as stored for temporal concatenation and Repeat."""
        return {**self._codec(), "clips": part.settings}

    def crops_settings(self, part: Part, policy: Policy, pixels: Pixels) -> dict:
        """Focused volumes: cut from the source or enlarged from the input. Raises StageError for other pixels."""
        if pixels not in PIXELS:
            raise StageError(f"pixels {pixels!r} is none of {', '.join(PIXELS)}")
        boxes = self.boxes_settings(part, policy)
        return {"pixels": pixels, **self._codec(), "clips": part.settings, "boxes": boxes}

    def _codec(self) -> dict:
        """Codec and quality; a lossless codec has no quality that could change a byte."""
        crops = self.config.crops
        return {"codec": crops.codec, "quality": 0 if crops.codec in LOSSLESS else crops.quality}

    @_kept
    def base(self, part: Part) -> ZarrStore:
        """Open logits float32 (T_out, C), entropy float32, frame_crc uint32 (T,) of the decoded source frames."""
        shape = (self.base_weights.out_frames, self.base_weights.num_classes)
        specs = [
            ArraySpec("logits", shape, "f4", "unit", ("out_frame", "class")),
            ArraySpec("entropy", (), "f4", "unit"),
            ArraySpec("frame_crc", (part.num_frames,), "u4", "unit", ("frame",)),
        ]
        return self._arrays("base", part, self.base_settings(part), specs)

    @_kept
    def maps(self, part: Part, objective: str) -> ZarrStore:
        """Open codes uint16 (H_in, W_in) and scale float32: the map is codes * scale, in the input frame; with several
        segments of time (segments, H_in, W_in)."""
        segments = num_segments(objective, self.config.saliency)
        several, names = ((segments,), ("segment",)) if segments > 1 else ((), ())
        codes = ArraySpec("codes", (*several, *part.input_size), "u2", "row", (*names, "y", "x"))
        specs = [codes, ArraySpec("scale", (), "f4", "unit")]
        return self._arrays("maps", part, self.maps_settings(part, objective), specs)

    @_kept
    def boxes(self, part: Part, policy: Policy) -> ZarrStore:
        """Open box_input, box_source int32 (top, left, height, width) and saliency_share float32, the box's share of
        the map; with k boxes a clip, or one in each of k segments of time, (k, 4), (k, 4) and (k,). With
        `saliency.looks`, looks int32 says which look found the box, from 1."""
        axis = box_axis(policy, self.config.saliency)
        several, names = tuple(axis.values()), tuple(axis)
        specs = [
            ArraySpec("box_input", (*several, 4), "i4", "unit", (*names, "edge")),
            ArraySpec("box_source", (*several, 4), "i4", "unit", (*names, "edge")),
            ArraySpec("saliency_share", several, "f4", "unit", names),
        ]
        if num_looks(policy, self.config.saliency) > 1:
            specs.append(ArraySpec("looks", (), "i4", "unit"))
        return self._arrays("boxes", part, self.boxes_settings(part, policy), specs)

    @_kept
    def context(self, part: Part) -> VolumeStore:
        """Open volumes uint8 (T, H_in, W_in, 3) of V_in."""
        return VolumeStore(self._product("context", part, self.context_settings(part)))

    @_kept
    def crops(self, part: Part, policy: Policy, pixels: Pixels) -> VolumeStore:
        """Open focused volumes uint8 (T, H_in, W_in, 3), with k boxes a clip (k, T, H_in, W_in, 3)."""
        return VolumeStore(self._product("crops", part, self.crops_settings(part, policy, pixels)))

    def left_out(self, part: Part, variant: Variant | None) -> set[str]:
        """Return the videos that a stage left out of what a variant, None for Base, reads; make no folder."""
        needed = [("base", self.base_settings(part))]
        if variant and (variant.boxes == "repeat" or variant.fusion == "concat"):
            needed.append(("context", self.context_settings(part)))
        if variant and variant.boxes != "repeat":
            needed.append(("crops", self.crops_settings(part, variant.boxes, variant.pixels)))
        there = (one for one in needed if is_started(self.run.source, one[0], part, one[1]))
        records = (self._product(product, part, settings).skips() for product, settings in there)
        return {entry["video_id"] for units in records for entries in units.values() for entry in entries}

    def _product(self, product: str, part: Part, settings: dict) -> ProductDir:
        return (open_product if self.to_write else find_product)(self.run.source, product, part, settings)

    def _arrays(self, product: str, part: Part, settings: dict, specs: list[ArraySpec]) -> ZarrStore:
        directory = self._product(product, part, settings)
        return ZarrStore.create(directory, specs) if self.to_write else ZarrStore.open(directory)


def open_stores(run: RunFolder, config: Config, to_write: bool = False) -> Stores:
    """Open the stores of a run for the config's Base, which must be trained; see `load_base` and `Stores`."""
    return Stores(run, config, load_base(run, config), to_write=to_write)


def open_run(run_dir: Path, config: Config, caches: Path | None = None) -> Stores:
    """Open a run folder and its stores to read them; see `open_folder` and `open_stores`."""
    return open_stores(open_folder(run_dir, config, caches), config)


def boxes_of(stores: Stores, part: Part, policy: Policy) -> np.ndarray:
    """Read box_input of every row of a part as stored, see `Stores.boxes`; zeros for a video left out."""
    store = stores.boxes(part, policy)
    done = store.product.rows_done()
    values = np.zeros((part.num_rows, *box_axis(policy, stores.config.saliency).values(), 4), np.int32)
    if done.any():
        values[done] = store.read_rows("box_input", np.flatnonzero(done))
    return values


def looks_of(stores: Stores, part: Part, policy: Policy) -> np.ndarray:
    """Read which look found the box of every row that is done, int32 (N,); see `Stores.boxes`."""
    store = stores.boxes(part, policy)
    return store.read_rows("looks", np.flatnonzero(store.product.rows_done()))
