"""Config files: TOML to a checked Config, and back."""

import difflib
import json
import tomllib
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import tomli_w
from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config import LATER, Config, check_together
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"
READER = TypeAdapter(Annotated[Config, AfterValidator(check_together)])
KEYS = get_type_hints(Config)
SECTIONS = {name: list(get_type_hints(kind)) for name, kind in KEYS.items() if is_dataclass(kind)}
# what was expected, by pydantic's name of the error
EXPECTED = {
    **{"int_type": "int", "float_type": "float", "bool_type": "bool", "string_type": "str"},
    **{"tuple_type": "a list", "dataclass_type": "a section"},
    **{"greater_than": "above {gt:g}", "greater_than_equal": "at least {ge:g}", "less_than_equal": "at most {le:g}"},
}


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
    file = Path(path) if Path(path).exists() else CONFIGS / f"{Path(path).stem}.toml"
    if not file.exists():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
        raise ConfigError(f"{path}: no such config file; those of the project are {known}")
    values = _read(file)
    values.setdefault("name", file.stem)
    for text in overrides:
        _override(values, text)
    _add_later(values, run_dir)
    # pydantic takes TOML's types from JSON: integers for floats, lists for tuples. Dates would fail; no setting has one
    document = json.dumps(values, default=lambda date: {type(date).__name__: str(date)})
    try:
        return READER.validate_json(document, strict=True, extra="forbid")
    except ValidationError as error:
        raise ConfigError("\n".join(f"{file}: {mistake}" for mistake in _mistakes(error.errors()))) from None


def to_toml(config: Config) -> str:
    """The config as TOML with every setting written out; `load` reads it back to an equal Config."""
    text = tomli_w.dumps(asdict(config))  # its only line breaks inside values are those between items of lists
    return text.replace("[\n    ", "[").replace(",\n    ", ", ").replace(",\n]", "]")


def _read(file: Path) -> dict:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
    except tomllib.TOMLDecodeError:
        values[key] = text


def _add_later(values: dict, run_dir: Path | None) -> None:
    """Add the settings of LATER that nested values leave out, where their default is not what is meant."""
    file = run_dir and run_dir / "config.toml"  # written by `prepare`, with every setting that there was
    prepared = _read(file) if file and file.is_file() else None
    for section, known in SECTIONS.items():
        own = values.setdefault(section, {})
        if not isinstance(own, dict):
            continue
        for name in LATER.keys() & known if prepared else ():
            own.setdefault(name, prepared.get(section, {}).get(name, LATER[name]))
        if own.get("video_loss_weight") == "released":
            own.setdefault("video_targets", "clip")


def _mistakes(errors: list[ErrorDetails]) -> list[str]:
    """One sentence for each unknown setting and each wrong value."""
    mistakes, expected = [], {}
    for error in errors:
        if error["type"] == "value_error":  # raised by `check_together`
            return [str(error["ctx"]["error"])]
        first, *inner = error["loc"]  # inner: the key, then the item of a list or the type of a union
        section, key = (f"{first}.", inner[0]) if first in SECTIONS and inner else ("", first)
        if error["type"] == "unexpected_keyword_argument":
            mistakes.append(f"unknown setting {section}{key}{_hint(section, key)}")
        else:  # a value that fits none of several types has an error for each of them
            expected.setdefault((section + key, repr(error["input"])), []).append(_expected(error))
    for (setting, value), words in expected.items():
        mistakes.append(f"{setting}: expected {' or '.join(words)}, got {value}")
    return mistakes


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        options = error["ctx"]["expected"].replace(" or ", ", ")
        return f"one of {options}" if "," in options else options
    return EXPECTED.get(error["type"], error["msg"]).format(**error.get("ctx", {}))


def _hint(section: str, key: str) -> str:
    """The nearest name of the same section, or the section where such a name belongs, or all names."""
    known = SECTIONS[section[:-1]] if section else list(KEYS)
    if near := difflib.get_close_matches(key, known, n=1):
        return f"; did you mean {section}{near[0]}?"
    everywhere = {f"{name}.{own}": own for name, keys in SECTIONS.items() for own in keys}
    near = [name for name, own in everywhere.items() if own == key]
    near = near or difflib.get_close_matches(section + key, everywhere, n=1)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}"
