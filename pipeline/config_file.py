"""Config files: TOML to a checked Config, and back."""

import difflib
import json
import os
import tomllib
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import tomli_w
from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipeline.box_settings import check_boxes
from pipeline.config import NETWORKS, Config, check_together
from pipeline.config_keys import LATER
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"
READER = TypeAdapter(Annotated[Config, AfterValidator(check_together), AfterValidator(check_boxes)])
KEYS = get_type_hints(Config)
SECTIONS = {name: list(get_type_hints(kind)) for name, kind in KEYS.items() if is_dataclass(kind)}
# what was expected, by pydantic's name of the error
EXPECTED = {
    **{"int_type": "int", "float_type": "float", "bool_type": "bool", "string_type": "str"},
    **{"tuple_type": "a list", "dataclass_type": "a section"},
    **{"greater_than": "above {gt:g}", "greater_than_equal": "at least {ge:g}"},
    **{"less_than": "below {lt:g}", "less_than_equal": "at most {le:g}"},
    "is_name": "a name for a folder: printable, without / and \\, not hidden, at most 100 bytes",
    "is_network": f"one of {', '.join(NETWORKS)}, FILE.py:function, package.module:function or hf:FOLDER",
    "is_text": "at most 4096 characters, none of them NUL",
}
PATHS = {"data": ("annotations", "classes", "videos"), "base": ("init", "network")}  # the settings that are some
MAX_BYTES = 1_000_000  # of a config file
SHOWN = 200  # characters of a wrong value in a message


def load(path: str, overrides: tuple[str, ...] = (), run_dir: Path | None = None) -> Config:
    """Read a config.

    Args:
        path: a TOML file, or the name of one that comes with the project, such as `charades`.
        overrides: `section.key=value`; the value is TOML, or else taken as a string.
        run_dir: a run folder that may have been prepared before some settings existed. Those of them that the config
            leaves out keep its results as they are, see LATER.
    Raises:
        ConfigError: one mistake a line: file, setting, what was expected and what was found.
    """
    file = _find(path)
    values = _read(file)
    values.setdefault("name", file.stem)
    name, world = values["name"], _world(values)
    for text in overrides:
        _override(values, text)
    if _world(values) != world:
        _move(values, name, f"{name}-{_world(values)}")
    _add_later(values, run_dir)
    return _check(values, str(file))


def check(config: Config) -> Config:
    """Return a config whose settings were replaced, by options of a command, if it would load; else as `load`."""
    return _check(asdict(config), f"config {config.name}")


def _find(path: str) -> Path:
    """Return the config file of this path or, where it is a bare name without a file, that of the project."""
    file = Path(path).expanduser()
    if file.is_file():
        return file
    if file.name == path == file.stem and (CONFIGS / f"{path}.toml").is_file():
        return CONFIGS / f"{path}.toml"
    what = "no such config file" if not file.exists() else "is a folder" if file.is_dir() else "is no regular file"
    near = f"; did you mean {path}.toml?" if Path(f"{path}.toml").is_file() else ""
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
    raise ConfigError(f"{path}: {what}{near}; those of the project are {known}; other paths start in {Path.cwd()}")


def _check(values: dict, source: str) -> Config:
    """Return nested values as a config; raise ConfigError with one mistake a line, each after its source."""
    base = values.get("base")
    if isinstance(base, dict) and isinstance(base.get("options"), dict):
        values = values | {"base": base | {"options": sorted(base["options"].items())}}
    try:
        # pydantic takes TOML's types from JSON: integers for floats, lists for tuples; no setting is a date
        dates = {"default": lambda date: {type(date).__name__: str(date)}}
        document = json.dumps(_expand(values), ensure_ascii=False, **dates).encode()
        return READER.validate_json(document, strict=True, extra="forbid")
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {mistake}" for mistake in _mistakes(error.errors()))) from None
    except UnicodeEncodeError as error:  # not of a file, for TOML is UTF-8
        text = error.object[: error.end].rpartition('"')[2] + error.object[error.end :].partition('"')[0]
        what = "is not UTF-8, as Python reads this command line"
        raise ConfigError(f"option {_shown(repr(text))} {what}; with PYTHONUTF8=1 it reads it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: too long a number, or too many levels: {error}") from None


def _expand(values: dict) -> dict:
    """Return nested values with ~ and ~user as home folders at the beginning of paths."""

    def expand(value: object) -> object:
        if isinstance(value, list | tuple):
            return [expand(one) for one in value]
        if not isinstance(value, str):
            return value
        kind = "hf:" if value.startswith("hf:") else ""
        return kind + os.path.expanduser(value.removeprefix(kind))

    found = dict(values)
    for section, names in PATHS.items():
        if isinstance(own := values.get(section), dict):
            found[section] = own | {name: expand(own[name]) for name in names if name in own}
    return found


def to_toml(config: Config) -> str:
    """The config as TOML with every setting written out; `load` reads it back to an equal Config."""
    values = asdict(config)
    values["base"]["options"] = dict(config.base.options)
    text = tomli_w.dumps(values)  # its only line breaks inside values are those between items of lists
    return text.replace("[\n    ", "[").replace(",\n    ", ", ").replace(",\n]", "]")


def _read(file: Path) -> dict:
    try:
        if (size := file.stat().st_size) > MAX_BYTES:
            raise ConfigError(f"{file}: {size} bytes; a config has at most {MAX_BYTES}")
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # perhaps with a byte-order mark
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error


def _override(values: dict, setting: str) -> None:
    """Put `section.key=value` into nested values."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set {setting}: expected section.key=value")
    *sections, key = name.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {setting}: {section} is not a section")
    try:
        values[key] = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        values[key] = text
    except RecursionError:
        raise ConfigError(f"--set {name}: too many levels of lists or tables") from None


def _world(values: dict) -> object:
    """Return the world of the miniature that nested values ask for."""
    data = values.get("data")
    return data.get("world", LATER["world"]) if isinstance(data, dict) else LATER["world"]


def _move(values: dict, name: object, new: str) -> None:
    """Give a miniature of another world than its file's a name and a folder of videos of its own: NAME-data, NEW-data.

    A name or a path that is another already stays.
    """
    values["name"] = new if values["name"] == name else values["name"]
    for key in ("annotations", "classes", "videos"):
        found = values["data"].get(key)
        if isinstance(found, str):
            values["data"][key] = found.replace(f"{name}-data", f"{new}-data")
        elif isinstance(found, list):
            moved = [one.replace(f"{name}-data", f"{new}-data") if isinstance(one, str) else one for one in found]
            values["data"][key] = moved


def _add_later(values: dict, run_dir: Path | None) -> None:
    """Add the settings of LATER that nested values leave out, where their default is not what is meant."""
    file = run_dir and run_dir / "config.toml"  # written by `prepare`, with every setting that there was
    prepared = _read(file) if file and file.is_file() else None
    for section, known in SECTIONS.items():
        own, before = values.setdefault(section, {}), (prepared or {}).get(section, {})
        if not isinstance(own, dict) or not isinstance(before, dict):
            continue
        for name in LATER.keys() & known if prepared else ():
            own.setdefault(name, before.get(name, LATER[name]))
        if own.get("video_loss_weight") == "released":
            own.setdefault("video_targets", "clip")


def _mistakes(errors: list[ErrorDetails]) -> list[str]:
    """One sentence for each unknown setting and each wrong value."""
    mistakes, expected = [], {}
    for error in errors:
        if error["type"] == "value_error":  # raised by `check_together` or `check_boxes`
            return [str(error["ctx"]["error"])]
        if not error["loc"]:  # of the whole text, not of a setting
            return [f"cannot be read: {error['msg']}"]
        first, *inner = error["loc"]  # inner: the key, then the item of a list or the type of a union
        section, key = (f"{first}.", inner[0]) if first in SECTIONS and inner else ("", first)
        if error["type"] == "unexpected_keyword_argument":
            mistakes.append(f"unknown setting {section}{_shown(key)}{_hint(section, key)}")
        else:  # a value that fits none of several types has an error for each of them
            expected.setdefault((section + key, _shown(repr(error["input"]))), []).append(_expected(error))
    for (setting, value), words in expected.items():
        mistakes.append(f"{setting}: expected {' or '.join(words)}, got {value}")
    return mistakes


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        options = error["ctx"]["expected"].replace(" or ", ", ")
        return f"one of {options}" if "," in options else options
    name = error["type"]
    if name == "predicate_failed":
        name = next(name for name in EXPECTED if name in error["msg"])
    return EXPECTED.get(name, error["msg"]).format(**error.get("ctx", {}))


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _hint(section: str, key: str) -> str:
    """The nearest name of the same section, or the section where this very name belongs, or all names."""
    known = SECTIONS[section[:-1]] if section else list(KEYS)
    if near := difflib.get_close_matches(key, known, n=1):
        return f"; did you mean {section}{near[0]}?"
    near = [f"{name}.{own}" for name, keys in SECTIONS.items() for own in keys if own == key]
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}"
