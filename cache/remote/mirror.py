"""Run folders in object storage, opened by URL: records and tables are mirrored at once, data comes when it is read.

A mirror is a local folder laid out like the run, so that every reader works on it unchanged. In place of each data file
it has, once that was read, a link to its content among the local files. Nothing is ever written to the URL.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from cache.commit import locked, storage_errors, write_file
from cache.errors import CacheError, DamagedError
from cache.layout import PRODUCTS
from cache.remote import file_cache
from cache.remote.fetch import MARK, get_all, storage, tried
from cache.sealed import parse_sealed, read_sealed, seal

VERSIONS = ".versions.json"  # in a mirror: which version of which files it has


def mirror(url: str) -> Path:
    """The mirror of a run, brought up to date: records, plan, tables and the records of Base networks; no data.

    Raises:
        CacheError: there is no run. StorageError: the storage keeps refusing. DamagedError: a file keeps arriving as
        something else.
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
        # what is sealed says what the others must be
        for names in ({name for name in new if name.endswith(".json")}, new):
            _bring(url, folder, {name: found[name] for name in names if name in new})
            new -= names
        write_file(versions, seal({"files": found}))
        write_file(folder / MARK, seal({"url": url}))
    return folder


def _bring(url: str, folder: Path, files: dict[str, list]) -> None:
    """Download files of a mirror, each checked by what is known of it."""
    known = _known_sha256(folder)
    checks = {f"{url}/{name}": _check_of(name, *files[name], known.get(name)) for name in sorted(files)}
    for place, data in get_all(checks):
        path = folder / place[len(url) + 1 :]
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "run.json":
            (path.parent / "done").mkdir(exist_ok=True)
        write_file(path, data)


def _known_sha256(folder: Path) -> dict[str, str]:
    """What the sealed records of the plan say about their tables."""
    records = sorted((folder / "plan").glob("part-*.json"))
    return {f"plan/{one.stem}.parquet": read_sealed(one, "parquet_sha256")["parquet_sha256"] for one in records}


def _check_of(name: str, num_bytes: int, version: str, sha256: str | None) -> Callable[[bytes], bool]:
    """Whether bytes are the file. Where no seal, record or version says so, it must come twice alike."""
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
        try:
            entries = tried(f"{url}/{name}", lambda: system.ls(f"{root}/{name}".rstrip("/"), detail=True))
        except DamagedError:  # object storage has no empty folders
            return
        for entry in entries:
            yield entry["name"].rstrip("/")[len(root) + 1 :], entry

    def files(name: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, list]]:
        for found, entry in inside(name):
            if entry["type"] == "file" and found.endswith(suffixes) and not PurePosixPath(found).name.startswith("."):
                version = entry.get("ETag") or entry.get("LastModified") or entry.get("mtime") or entry.get("created")
                yield found, [entry["size"], str(version)]

    found = dict(files("", (".csv", ".txt", ".toml"))) | dict(files("plan", (".json", ".parquet")))
    for product in PRODUCTS:
        for key, _ in inside(product):
            for name in (key, f"{key}/done", f"{key}/arrays.zarr"):
                found |= files(name, (".json",))
            for array, entry in inside(f"{key}/arrays.zarr") if product in ("base", "maps", "boxes") else ():
                found |= files(array, ("zarr.json",)) if entry["type"] == "directory" else ()
    for model, _ in inside("models"):
        found |= files(model, ("/base.json",)) if model.startswith("models/base-") else ()
    return found
