"""Find the folder of a product in a run folder by what it is made from, and make it on first use.

`run.json` says what that is: product, format, plan part and settings. Its fingerprint is the folder's name.
"""

import json
from pathlib import Path

from cache import commit
from cache.commit import storage_errors, sync_directory
from cache.errors import NoStoreError, StaleCacheError
from cache.fingerprint import canonical, differences, fingerprint
from cache.layout import PRODUCTS
from cache.plan import Part
from cache.remote.fetch import remote_of
from cache.remote.publish import Publisher
from cache.sealed import read_sealed, seal
from cache.stores.product_folder import ProductDir

FORMAT = 2


def is_started(root: Path, product: str, part: Part, settings: dict) -> bool:
    """Whether the folder of a product is there already."""
    return (Path(root) / product / fingerprint(_facts(product, part, settings)) / "run.json").exists()


def _facts(product: str, part: Part, settings: dict) -> dict:
    """Return what run.json of a product says, the source of its key."""
    facts = {"product": product, "format": FORMAT, "part": part.name, "rows_sha256": part.rows_sha256}
    return facts | {"settings": json.loads(canonical(settings))}


def open_product(root: Path, product: str, part: Part, settings: dict) -> ProductDir:
    """Open the folder of a product in the run folder `root`, which is made on first use.

    The settings are plain JSON: everything that can change the product's bytes, with the settings of what it is made
    from. Raises as `find_product`.
    """
    if product not in PRODUCTS:
        raise ValueError(f"product {product!r}, allowed: {', '.join(PRODUCTS)}")
    if (remote := remote_of(Path(root))) and not remote.writes:
        return find_product(root, product, part, settings)
    run = _facts(product, part, settings)
    path = Path(root) / product / fingerprint(run)
    file = path / "run.json"
    with storage_errors(path):
        for folder in (path / "done", path / "locks"):
            folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            (Publisher(remote).write_equal if remote else commit.write_once)(file, seal(run))
        for folder in (path.parent, path.parent.parent):
            sync_directory(folder)
    return find_product(root, product, part, settings)


def find_product(root: Path, product: str, part: Part, settings: dict) -> ProductDir:
    """As `open_product`, but write nothing: what is not there has no unit that is done.

    StaleCacheError, with the field, where the run.json that is there differs; NoStoreError where the root is a mirror
    of a run elsewhere, which does not have the product.
    """
    run = _facts(product, part, settings)
    path = Path(root) / product / fingerprint(run)
    if (path / "run.json").exists():
        if wrong := differences(read_sealed(path / "run.json"), run):
            raise StaleCacheError(f"{path / 'run.json'}: {wrong[0]}")
    elif remote := remote_of(Path(root)):
        raise NoStoreError(f"{remote.url} has no {product} with these settings ({path.name}) for {part.name}")
    return ProductDir(path, part, run)


def read_product(path: Path, parts: dict[str, Part]) -> ProductDir:
    """Open the folder of a product that exists; `parts` are the plan's parts by name.

    StaleCacheError where run.json names another format, part or plan, or does not belong to the folder's name;
    DamagedError where it is missing or unreadable.
    """
    file = path / "run.json"
    run = read_sealed(file, "product", "format", "part", "rows_sha256", "settings")
    if run["part"] not in parts:
        raise StaleCacheError(f"{file}: part: {run['part']}, the plan has {', '.join(parts)}")
    part = parts[run["part"]]
    if wrong := differences(run, run | {"format": FORMAT, "rows_sha256": part.rows_sha256}):
        raise StaleCacheError(f"{file}: {wrong[0]}")
    if fingerprint(run) != path.name:
        raise StaleCacheError(f"{file}: its fingerprint is {fingerprint(run)}, its directory's name {path.name}")
    return ProductDir(path, part, run)
