"""Mirrors of runs in object storage: local folders laid out like the run, so that code that reads a run works on them.

Records and tables are downloaded at once. A data file is downloaded when it is read, and is then a link into the file
cache. Nothing is ever written to the URL.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from cache.commit import locked, storage_errors, write_file
from cache.errors import CacheError, DamagedError
from cache.layout import ARRAY_PRODUCTS, ARRAYS, PRODUCTS
from cache.remote import file_cache
from cache.remote.fetch import MARK, entries, get_all, storage
from cache.sealed import parse_sealed, read_sealed, seal

VERSIONS = ".versions.json"  # in a mirror: the files it has, with size and version


def mirror(url: str) -> Path:
    """Make or update the mirror of a run, without its data files; return its folder.

    CacheError where there is no run; DamagedError where a file arrives with another content every time; StorageError
    where the storage refuses every time.
    """
    url = str(url).rstrip("/")
    folder = file_cache.local_folder() / "runs" / hashlib.sha256(url.encode()).hexdigest()[:16]
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".sync", wait=True):
        versions = folder / VERSIONS
        old = read_sealed(versions, "files")["files"] if versions.exists() else {}
        found = _listing(url)
        if not any(name.startswith("plan/part-") for name in found):
            raise CacheError(f"{url} holds no plan (plan/part-000-*.json); `prepare` writes it")
        for name in old.keys() - found.keys():
            (folder / name).unlink(missing_ok=True)
        new = {name for name in found if old.get(name) != found[name] or not (folder / name).exists()}
        sealed = {name for name in new if name.endswith(".json")}
        for names in (sealed, new - sealed):  # sealed files say what the others must be
            _download(url, folder, {name: found[name] for name in names})
        write_file(versions, seal({"files": found}))
        write_file(folder / MARK, seal({"url": url}))
    return folder


def _download(url: str, folder: Path, files: dict[str, list]) -> None:
    """Download files of a mirror, [bytes, version] by name, and check each by what is known of it."""
    parts = sorted((folder / "plan").glob("part-*.json"))
    known = {f"plan/{one.stem}.parquet": read_sealed(one, "parquet_sha256")["parquet_sha256"] for one in parts}
    checks = {f"{url}/{name}": _check_of(name, *files[name], known.get(name)) for name in sorted(files)}
    for place, data in get_all(checks):
        path = folder / place[len(url) + 1 :]
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "run.json":
            (path.parent / "done").mkdir(exist_ok=True)
        write_file(path, data)


def _check_of(name: str, num_bytes: int, version: str, sha256: str | None) -> Callable[[bytes], bool]:
    """A check whether bytes are the file. Without a SHA-256, a seal or an MD5 as version it must arrive twice alike."""
    arrived = set()

    def check(data: bytes) -> bool:
        if len(data) != num_bytes:
            return False
        if sha256:
            return hashlib.sha256(data).hexdigest() == sha256
        if name.endswith(".json") and not name.endswith("zarr.json"):
            try:
                return bool(parse_sealed(data, name))
            except DamagedError:
                return False
        twice = data in arrived
        arrived.add(data)
        return twice or hashlib.md5(data, usedforsecurity=False).hexdigest() == version.strip('"')

    return check


def _listing(url: str) -> dict[str, list]:
    """[bytes, version] of every file that a mirror has, by its name below the URL."""
    system, root = storage(url)
    system.invalidate_cache()

    def inside(name: str) -> Iterator[tuple[str, dict]]:
        for entry in entries(system, f"{root}/{name}".rstrip("/"), f"{url}/{name}"):
            yield entry["name"].rstrip("/")[len(root) + 1 :], entry

    def files(name: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, list]]:
        for found, entry in inside(name):
            if entry["type"] == "file" and found.endswith(suffixes) and not PurePosixPath(found).name.startswith("."):
                version = entry.get("ETag") or entry.get("LastModified") or entry.get("mtime") or entry.get("created")
                yield found, [entry["size"], str(version)]

    found = dict(files("", (".csv", ".txt", ".toml"))) | dict(files("plan", (".json", ".parquet")))
    for product in PRODUCTS:
        for key, _ in inside(product):
            for name in (key, f"{key}/done", f"{key}/{ARRAYS}"):
                found |= files(name, (".json",))
            for array, entry in inside(f"{key}/{ARRAYS}") if product in ARRAY_PRODUCTS else ():
                found |= files(array, ("zarr.json",)) if entry["type"] == "directory" else ()
    for model, _ in inside("models"):
        found |= files(model, ("/base.json",)) if model.startswith("models/base-") else ()
    return found
