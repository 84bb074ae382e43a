"""The stores of a run folder: their names, and which belong together because one was made from the other."""

from dataclasses import dataclass
from pathlib import Path

from cache.errors import StoreAmbiguousError
from cache.fingerprint import canonical, fingerprint
from cache.layout import PRODUCTS, boxes_name
from cache.plan import Part
from cache.stores.open_product import read_product
from cache.stores.product_folder import ProductDir


def find_stores(path: Path, parts: dict[str, Part]) -> list["Store"]:
    """The stores of the run folder at path, by product, then name; `parts` are the plan's parts by name.

    Raises as `read_product`; StoreAmbiguousError where two folders of one part differ only in the settings of clips.
    """
    groups = {}
    for product in PRODUCTS:
        for file in sorted((path / product).glob("*/run.json")):
            directory = read_product(file.parent, parts)
            lineage = _lineage(product, directory.settings)
            store = groups.setdefault((product, canonical(lineage)), Store(product, lineage, {}))
            twin = store.directories.setdefault(directory.part.name, directory)
            if twin is not directory:
                raise StoreAmbiguousError(f"{file.parent} and {twin.path} differ in nothing but the settings of clips")
    return sorted(groups.values(), key=lambda store: (PRODUCTS.index(store.product), store.name, store.text))


def _lineage(product: str, settings: dict) -> dict[str, dict]:
    """The settings of a product and of all that it was made from, by product, without those of clips."""
    found = {product: _without_clips(settings)}
    for name, value in settings.items():
        if name in PRODUCTS and isinstance(value, dict):
            found |= _lineage(name, value)
    return found


def _without_clips(settings: dict) -> dict:
    return {k: _without_clips(v) if isinstance(v, dict) else v for k, v in settings.items() if k != "clips"}


@dataclass(frozen=True, eq=False)
class Store:
    """One product made with one set of settings."""

    product: str
    lineage: dict[str, dict]  # by product, the settings of this one and of all that it was made from, without "clips"
    directories: dict[str, ProductDir]  # by name of the plan part

    @property
    def name(self) -> str:
        """Objective of maps, policy and rule of boxes, BOXES/PIXELS of crops, else the product; not always unique."""
        settings = self.lineage.get("boxes" if self.product == "crops" else self.product, {})
        name = settings.get("objective") or settings.get("policy") or self.product
        known = {"box_rule": "rule", "num_boxes": "num_boxes", "time_segments": "time_segments", "looks": "looks"}
        name = boxes_name(name, **{known[key]: value for key, value in settings.items() if key in known})
        return f"{name}/{self.lineage['crops']['pixels']}" if self.product == "crops" else name

    def answers(self, selector: str) -> bool:
        """Whether a selector means this store: its name, that up to "/", or 6 first digits of a fingerprint or key."""
        keys = [fingerprint(self.lineage[self.product]), *(one.key for one in self.directories.values())]
        keys += [fingerprint(one.settings) for one in self.directories.values()]
        if selector in (self.name, self.name.split("/")[0]):
            return True
        return len(selector) >= 6 and any(key.startswith(selector) for key in keys)

    def agrees(self, other: "Store") -> bool:
        """Whether two stores belong together: the settings of every product that both were made from are equal."""
        shared = self.lineage.keys() & other.lineage.keys()
        return all(canonical(self.lineage[one]) == canonical(other.lineage[one]) for one in shared)

    def __str__(self) -> str:
        return f"{self.product} {fingerprint(self.lineage[self.product])} {self.name} ({self.text})"

    @property
    def text(self) -> str:
        """The settings in a line, nested ones as fingerprints."""
        settings = self.lineage[self.product].items()
        return ", ".join(f"{k}={fingerprint(v)[:8] if isinstance(v, dict) else v}" for k, v in settings)
