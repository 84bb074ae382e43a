"""Mirrors of runs in object storage: local folders laid out like the run, so that code that reads a run works on them.

Records and tables are downloaded at once. A data file is downloaded when it is read, and is then a link into the file
cache. Nothing is written to the URL from here; a mirror may be the working folder of a writer, see `publish`.
"""

import hashlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path

from cache.commit import locked, storage_errors, write_file
from cache.errors import CacheError, DamagedError
from cache.layout import ARRAY_PRODUCTS, ARRAYS, PRODUCTS, RECORD_OF, RUN_LOCK, SEGMENT
from cache.remote import file_cache
from cache.remote.fetch import MARK, entries, get_all, storage
from cache.sealed import is_sealed, read_sealed, recorded_files, seal

VERSIONS = ".versions.json"  # in a mirror: the files it has, with size and version
MOST_NAMES = 500_000  # in all listings of a run together
_RECORDS = ("tables.json", "skipped.json", "results.json")  # of the tables in the run folder
_TABLES = [table for table, record in RECORD_OF.items() if record in _RECORDS]
_MIRRORED = re.compile(  # every file that a mirror has, but those that it downloads when they are read
    rf"config\.toml|{'|'.join(map(re.escape, (*_TABLES, *_RECORDS)))}|plan/part-\d{{3}}-\w+\.(json|parquet)"
    rf"|({'|'.join(PRODUCTS)})/[0-9a-f]{{16}}/(run\.json|done/(\d{{6,}}\.json|segments/{SEGMENT.pattern})"
    rf"|{re.escape(ARRAYS)}/(\w+/)?zarr\.json)"
    r"|models/(base|looker)-[0-9a-f]{16}/(base|looker)\.json",
    re.ASCII,
)


def mirror(url: str, writes: bool = False) -> Path:
    """Make or update the mirror of a run, without its data files; return its folder, with `writes` the working folder.

    CacheError where there is no run; DamagedError where a listing holds what no run folder does, or a file arrives with
    another content every time; StorageError where the storage refuses every time.
    """
    url = str(url).rstrip("/")
    kind, name = "written" if writes else "runs", hashlib.sha256(url.encode()).hexdigest()[:16]
    folder = file_cache.local_folder() / kind / name
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".sync", wait=True):
        versions = folder / VERSIONS
        old = read_sealed(versions, "files")["files"] if versions.exists() else {}
        found = _listing(url)
        if not any(name.startswith("plan/part-") for name in found):
            how = "is the URL right? copy the run folder there, once `prepare` has made it"
            raise CacheError(f"{url} holds no plan (plan/part-000-*.json); {how}")
        with locked(folder / RUN_LOCK) as unused:  # else a process has just put more than the listing has
            ours = {path.relative_to(folder).as_posix() for path in folder.rglob("*")} if writes and unused else set()
            gone = set(filter(_MIRRORED.fullmatch, (old.keys() | ours) - found.keys()))
            records = {name for name in gone if "/done/" in name}
            _delete(folder, gone - records)
            new = {name for name in found if old.get(name) != found[name] or not (folder / name).exists()}
            sealed = {name for name in new if name.endswith(".json")}
            for names in (sealed, new - sealed):  # sealed files say what the others must be
                _download(url, folder, {name: found[name] for name in names})
            _delete(folder, records)  # of units that segments have by now, or of none
        write_file(versions, seal({"files": found}))
        write_file(folder / MARK, seal({"url": url} | ({"writes": True} if writes else {})))
    return folder


def _delete(folder: Path, names: set[str]) -> None:
    for name in names:
        with storage_errors(folder / name):
            (folder / name).unlink(missing_ok=True)


def _download(url: str, folder: Path, files: dict[str, list]) -> None:
    """Download files of a mirror, [bytes, version] by name, and check each by what is known of it."""
    parts = sorted((folder / "plan").glob("part-*.json"))
    known = {f"plan/{one.stem}.parquet": read_sealed(one, "parquet_sha256")["parquet_sha256"] for one in parts}
    for record in (folder / name for name in _RECORDS if (folder / name).exists()):
        known |= {file["name"]: file["sha256"] for file in recorded_files(record)}
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
        if name.endswith(".jsonl"):
            return name.endswith(f"/{hashlib.sha256(data).hexdigest()[:16]}.jsonl")
        if sha256:
            return hashlib.sha256(data).hexdigest() == sha256
        if name.endswith(".json") and not name.endswith("zarr.json"):
            return is_sealed(data)
        twice = data in arrived
        arrived.add(data)
        return twice or hashlib.md5(data, usedforsecurity=False).hexdigest() == version.strip('"')

    return check


def _listing(url: str) -> dict[str, list]:
    """[bytes, version] of every file that a mirror has, by its name below the URL. DamagedError as `mirror`."""
    system, root = storage(url)
    system.invalidate_cache()
    found, names = {}, itertools.count(1)

    def look(folder: str) -> list[str]:
        """Note the files in a folder that a mirror has; return the folders in it, as names below the URL."""
        place, folders, seen = f"{root}/{folder}".rstrip("/"), [], set()
        for entry in entries(system, place, f"{url}/{folder}"):
            listed = entry["name"].rstrip("/")
            if listed == place:  # an empty object that stands for the folder itself
                continue
            above, _, name = listed.rpartition("/")
            if above != place or name in ("", ".", "..") or "\\" in name or not name.isprintable() or name in seen:
                why = "each name once, and names of what is in the folder"
                raise DamagedError(f"{url}/{folder}: its listing has {entry['name']!r:.200}; expected {why}")
            if next(names) > MOST_NAMES:
                raise DamagedError(f"{url}: its listings have more than {MOST_NAMES:,} names, as no run has")
            seen.add(name)
            below = f"{folder}/{name}".lstrip("/")
            if entry["type"] == "directory":
                folders.append(below)
            elif _MIRRORED.fullmatch(below):
                found[below] = [_size(entry, f"{url}/{below}"), _version(entry)]
        return folders

    look("")
    look("plan")
    for product in PRODUCTS:
        for key in look(product):
            look(key)
            if f"{key}/done/segments" in look(f"{key}/done"):  # the records that have files of their own come first
                look(f"{key}/done/segments")
            for array in look(f"{key}/{ARRAYS}") if product in ARRAY_PRODUCTS else ():
                look(array)
    for model in look("models"):
        if model.startswith(("models/base-", "models/looker-")):
            look(model)
    return found


def _size(entry: dict, where: str) -> int:
    if type(size := entry.get("size")) is not int or size < 0:
        raise DamagedError(f"{where}: its listing says {size!r:.200} bytes")
    return size


def _version(entry: dict) -> str:
    """What changes when an object does; which field of an entry that is depends on the storage."""
    return str(entry.get("ETag") or entry.get("LastModified") or entry.get("mtime") or entry.get("created"))
