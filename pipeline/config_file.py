"""TOML as frozen dataclasses: every value checked against its annotation, a wrong name told the nearest right one."""

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.config import Config, check
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"


def to_toml(config: Any) -> str:
    """The resolved config as TOML, every field written out; `load` reads it back to an equal Config."""
    values = dataclasses.asdict(config)
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for section, fields in values.items():
        if isinstance(fields, dict):
            lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def override(values: dict, setting: str) -> None:
    """Put `section.key=value` into nested values; what is not TOML is a string.

    Raises:
        ConfigError: it has another form, or what it names a section is none.
    """
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
    except tomllib.TOMLDecodeError:
        values[key] = text


def build(kind: type, values: dict, where: str) -> Any:
    """A dataclass of dataclasses, such as Config, from nested values.

    Args:
        where: of the file, for messages.
    Raises:
        ConfigError: names where, section and key, and what was expected.
    """
    return _build(kind, values, where, "", kind)


def _build(kind: type, values: dict, where: str, section: str, root: type) -> Any:
    """One level of it; `section` is "" or ends in a dot."""
    hints, found = get_type_hints(kind), {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown setting {section}{key}{_hint(key, section, list(hints), root)}")
        place = f"{where}: {section}{key}"
        if not dataclasses.is_dataclass(hints[key]):
            found[key] = _convert(hints[key], value, place)
        elif isinstance(value, dict):
            found[key] = _build(hints[key], value, where, f"{section}{key}.", root)
        else:
            raise ConfigError(f"{place}: expected a section, got {value!r}")
    return kind(**found)


def _hint(key: str, section: str, known: list[str], root: type) -> str:
    """The nearest name of the same section, or the section where such a name belongs, or all names."""
    if near := difflib.get_close_matches(key, known, n=1):
        return f"; did you mean {section}{near[0]}?"
    everywhere = [
        f"{name}.{own}"
        for name, kind in get_type_hints(root).items()
        if dataclasses.is_dataclass(kind)
        for own in get_type_hints(kind)
    ]
    near = [name for name in everywhere if name.split(".")[1] == key]
    near = near or difflib.get_close_matches(section + key, everywhere, n=1)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}"


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check value against the annotation; ints pass as floats, lists become tuples."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where}: {value!r} is none of {', '.join(map(repr, get_args(hint)))}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(get_args(hint)[0], item, where) for item in value)
    if get_args(hint):  # a union: the first member that fits
        for member in get_args(hint):
            try:
                return _convert(member, value, where)
            except ConfigError:
                continue
        raise ConfigError(f"{where}: {value!r} is none of {hint}")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def load(path: str, overrides: tuple[str, ...] = ()) -> Config:
    """Read a config.

    Args:
        path: a TOML file, or the name of one that comes with the project, such as `charades`.
        overrides: `section.key=value` in TOML, or with a bare word as a string.
    Raises:
        ConfigError: names the file, the field, and what was expected.
    """
    file = Path(path) if Path(path).exists() else CONFIGS / f"{Path(path).stem}.toml"
    if not file.exists():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
        raise ConfigError(f"{path}: no such config file; those of the project are {known}")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    values.setdefault("name", file.stem)
    for text in overrides:
        override(values, text)
    config = build(Config, values, str(file))
    check(config)
    return config
