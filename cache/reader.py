"""Reads a run folder by global row: the index as a table, saliency maps, logits and volumes."""

import operator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cache.catalog import Store, find_stores
from cache.errors import NoStoreError, NotDoneError, StoreAmbiguousError
from cache.layout import VOLUME_PRODUCTS
from cache.plan import Part
from cache.plan_files import read_plan
from cache.remote.fetch import is_url
from cache.remote.mirror import mirror
from cache.stores.product_folder import ProductDir
from cache.stores.volume_store import VolumeStore
from cache.stores.zarr_store import ZarrStore
from cache.table_files import read_csv

_STORED_NEGATIVE = {("base", "entropy")}  # the array holds the paper's L_E, the sum of p log p
_BOX_COLUMNS = [f"box_{frame}_{edge}" for frame in ("input", "source") for edge in ("top", "left", "height", "width")]


class Run:
    """What a run folder holds, opened with `cache.open`. Rows are global: they count through all parts of the plan.

    Opening reads the plan and the run.json files only. `index` is made when it is first used and then stays as it is.
    """

    def __init__(self, run_dir: str | Path, chosen: dict[str, str | None]):
        self.path = mirror(run_dir) if is_url(run_dir) else Path(run_dir)
        self.parts = read_plan(self.path)
        self.num_rows = sum(part.num_rows for part in self.parts)
        self._stores = find_stores(self.path, {part.name: part for part in self.parts})
        self._chosen = {product: selector for product, selector in chosen.items() if selector is not None}
        self._open = {}  # (product, name of the part) -> open store
        for product in self._chosen:
            self.store(product)

    def store(self, product: str) -> Store:
        """The store of a product: the chosen one, or the only one that fits the other choices.

        NoStoreError where none fits, StoreAmbiguousError where several do; the message lists what there is.
        """
        found = self._candidates(product)
        if not found:
            others = "; ".join(str(store) for store in self._stores if store.product == product)
            wanted = f" that fits {self._chosen}" if others else ""
            raise NoStoreError(f"{self.path} has no {product} store{wanted}; it has: {others or 'none'}")
        if len(found) > 1:
            several = "; ".join(map(str, found))
            raise StoreAmbiguousError(f"{self.path}: choose one with {product}=NAME or FINGERPRINT: {several}")
        return found[0]

    def read(self, product: str, name: str, rows) -> np.ndarray:
        """Many rows at once, global and in any order, from an array of base, maps or boxes, such as "base", "logits".

        Returns (len(rows), *row_shape) in the stored dtype. Raises as `store` and `ZarrStore.read_rows`, and ValueError
        where there are no rows.
        """
        if not len(rows):
            raise ValueError("read needs at least one row")
        number, local = np.array([self.locate(row) for row in rows], np.int64).T
        readers = {part: self._reader(product, self.parts[part]) for part in np.unique(number)}
        values = np.concatenate([reader.read_rows(name, local[number == part]) for part, reader in readers.items()])
        values = -values if (product, name) in _STORED_NEGATIVE else values
        result = np.empty_like(values)
        result[np.argsort(number, kind="stable")] = values
        return result

    def saliency(self, row: int) -> np.ndarray:
        """The saliency map of a row, float32 (H_in, W_in) in the input frame."""
        maps, local = self._place("maps", row)
        return maps.read("codes", local).astype(np.float32) * maps.read("scale", local)

    def logits(self, row: int) -> np.ndarray:
        """Base's outputs of a row before the sigmoid or softmax, float32 (T_out, C)."""
        base, local = self._place("base", row)
        return base.read("logits", local)

    def focus(self, row: int) -> np.ndarray:
        """The focused volume of a row, uint8 (T, S, S, 3) RGB; with k boxes a clip (k, T, S, S, 3)."""
        crops, local = self._place("crops", row)
        return crops.volume(local)

    def context(self, row: int) -> np.ndarray:
        """The context volume V_in of a row, uint8 (T, S, S, 3) RGB."""
        context, local = self._place("context", row)
        return context.volume(local)

    def boxes(self, row: int) -> pd.DataFrame:
        """The boxes of a row, one line each, with the columns of `index` that are of boxes; that has the first one."""
        boxes, local = self._place("boxes", row)
        edges = [boxes.read(name, local).reshape(-1, 4) for name in ("box_input", "box_source")]
        table = pd.DataFrame(np.concatenate(edges, axis=1), columns=_BOX_COLUMNS)
        return table.assign(saliency_share=boxes.read("saliency_share", local).reshape(-1))

    def locate(self, row: int) -> tuple[int, int]:
        """(number of the part, local row) of a global row."""
        row = operator.index(row)
        if not 0 <= row < self.num_rows:
            raise IndexError(f"{self.path} has rows 0 to {self.num_rows - 1}, got {row}")
        number = max(i for i, part in enumerate(self.parts) if part.offset <= row and part.num_rows)
        return number, row - self.parts[number].offset

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row per (video, clip, augmentation), its label the global row.

        Columns: row, part, those of the plan, box_input_* and box_source_* (Int32, missing where not done),
        saliency_share and entropy, minus the sum of p log p (float32, NaN where not done), saliency_done (a map is
        stored) and crop_done (bool). Of several boxes a clip it has the first one; `boxes` has all.
        """
        return pd.concat([self._index_of(part) for part in self.parts], ignore_index=True)

    def rows_of(self, video_id: str) -> pd.DataFrame:
        """The rows of `index` that are of a video, in parts of the plan that have it; `index` of others is not made."""
        found = [self._index_of(part).iloc[rows] for part in self.parts if (rows := part.video_rows(video_id))]
        if not found:
            raise KeyError(f"{self.path} has no video {video_id!r}")
        return pd.concat(found).set_axis(np.concatenate([one.row for one in found]))

    def stores(self) -> pd.DataFrame:
        """One row per product and plan part: its key, its settings, and how much is done (bytes as in the records)."""
        lines = []
        for store in self._stores:
            for part, folder in sorted(store.directories.items()):
                done = folder.done_units()
                size = sum(file["bytes"] for unit in done for file in folder.checked_record(unit)["files"])
                counts = (len(done), folder.part.num_units, int(folder.rows_done().sum()), size)
                lines.append((store.product, store.name, folder.key, part, store.text, *counts))
        names = ["product", "name", "key", "part", "settings", "units_done", "units", "rows_done", "bytes"]
        return pd.DataFrame(lines, columns=names)

    @property
    def videos(self) -> pd.DataFrame:
        """videos.csv, as text: an id such as 07E49 is no number. This and the next two raise as `read_csv`."""
        return read_csv(self.path / "videos.csv")

    @property
    def skipped(self) -> pd.DataFrame:
        return read_csv(self.path / "skipped.csv")

    @property
    def labels(self) -> pd.DataFrame:
        """labels.csv, one row an action.

        Columns: video_id, split and label (text, "" in the one row of a video without actions), start and end (seconds,
        NaN where the label holds for the whole video).
        """
        times = ("start", "end")
        return read_csv(self.path / "labels.csv", ("video_id", "split", "label", *times), times)

    def _candidates(self, product: str) -> list[Store]:
        """The stores of a product that fit every choice."""
        found = [store for store in self._stores if store.product == product]
        for other, selector in self._chosen.items():
            fitting = [store for store in self._stores if store.product == other and store.answers(selector)]
            found = [store for store in found if any(store.agrees(one) for one in fitting)]
        return found

    def _directory(self, product: str, part: Part) -> ProductDir | None:
        """The folder of a product for a part; None where no store fits, or it does not have the part."""
        return self.store(product).directories.get(part.name) if self._candidates(product) else None

    def _reader(self, product: str, part: Part) -> ZarrStore | VolumeStore:
        """The open store of a product for a part, kept open for the next row."""
        if (product, part.name) not in self._open:
            directory = self.store(product).directories.get(part.name)
            if directory is None:
                raise NotDoneError(f"{self.store(product)} has nothing for {part.name}")
            open_store = VolumeStore if product in VOLUME_PRODUCTS else ZarrStore.open
            self._open[product, part.name] = open_store(directory)
        return self._open[product, part.name]

    def _place(self, product: str, row: int) -> tuple[ZarrStore | VolumeStore, int]:
        """The open store that holds a global row of a product, and the local row in it."""
        number, local = self.locate(row)
        return self._reader(product, self.parts[number]), local

    def _index_of(self, part: Part) -> pd.DataFrame:
        """The rows of one part in `index`. A new column is set here."""
        table = part.rows.copy()
        table.insert(0, "row", np.arange(part.offset, part.offset + part.num_rows))
        table.insert(1, "part", part.name)
        boxes = self._directory("boxes", part)
        box = np.concatenate([_known(boxes, part, name, (4,)) for name in ("box_input", "box_source")], axis=1)
        for column, values in zip(_BOX_COLUMNS, box.T, strict=True):
            table[column] = pd.array(values, dtype="Int32")
        table["saliency_share"] = _known(boxes, part, "saliency_share", ()).astype(np.float32)
        table["entropy"] = -_known(self._directory("base", part), part, "entropy", ()).astype(np.float32)
        # boxes made without maps (random, center) do not say which of several maps is meant: then none is
        mapless = self._candidates("boxes") and "maps" not in self.store("boxes").lineage
        unclear = mapless and len(self._candidates("maps")) > 1
        table["saliency_done"] = _rows_done(None if unclear else self._directory("maps", part), part)
        table["crop_done"] = _rows_done(self._directory("crops", part), part)
        return table


def _rows_done(directory: ProductDir | None, part: Part) -> np.ndarray:
    return np.zeros(part.num_rows, bool) if directory is None else directory.rows_done()


def _known(directory: ProductDir | None, part: Part, name: str, row_shape: tuple[int, ...]) -> np.ndarray:
    """An array of a product, of several boxes the first, float64 (rows of the part, *row_shape); NaN where not done."""
    values = np.full((part.num_rows, *row_shape), np.nan)
    done = _rows_done(directory, part)
    if done.any():
        found = ZarrStore.open(directory).read_rows(name, np.flatnonzero(done))
        values[done] = found.reshape(len(found), -1, *row_shape)[:, 0]
    return values
