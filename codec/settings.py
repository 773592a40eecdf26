"""Tables of a configuration (TOML, JSON) -> dataclasses, with every key and type checked."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from codec.choose import did_you_mean

Settings = TypeVar("Settings")


def load_settings(path: str | Path, kind: type[Settings], overrides: Sequence[str] = ()) -> Settings:
    """Read settings from a TOML file.

    Args:
        path: The file.
        kind: As for `settings_from`.
        overrides: Lines of TOML that replace single settings, such as "quantizer.num_quantizers = 8".

    Raises:
        ValueError: Not TOML, or a setting that is unknown (with the nearest known one) or of another type.
        OSError: The file cannot be read.
    """
    table = _parse(Path(path).read_text(encoding="utf-8"), str(path))
    for override in overrides:
        _merge(table, _parse(override, f"override {override!r}"))
    return settings_from(table, kind)


def settings_from(table: Mapping[str, Any], kind: type[Settings], where: str = "") -> Settings:
    """Make a dataclass from a table; nested dataclasses from nested tables.

    Args:
        table: Keys and values; keys that are left out keep their defaults.
        kind: A dataclass whose fields are dataclasses, str, bool, int, float, or tuples of those, of a fixed length
            (`tuple[float, float]`) or of any (`tuple[float, ...]`).
        where: Dotted path of the table, for messages.

    Raises:
        ValueError: A key is unknown (the message names the nearest known one), lacking, or of another type.
    """
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise ValueError(f"unknown setting {where}{key}{did_you_mean(key, known)}")
    for key, field in known.items():
        if key not in table and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"setting {where}{key} must be given; it has no default")
    return kind(**{key: _convert(value, hints[key], f"{where}{key}") for key, value in table.items()})


def _convert(value: Any, kind: Any, path: str) -> Any:
    if is_dataclass(kind) and isinstance(value, Mapping):
        return settings_from(value, kind, f"{path}.")  # type: ignore[arg-type]
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return _convert_items(value, get_args(kind), path)
    if kind is float and type(value) is int:
        return float(value)
    # bool is an int in Python, but no number of anything.
    if isinstance(kind, type) and type(value) is kind:
        return value
    wanted = "a table" if is_dataclass(kind) else getattr(kind, "__name__", kind)
    raise ValueError(f"{path} must be {wanted}; got {value!r}")


def _convert_items(values: Sequence[Any], kinds: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(values) != len(kinds):
        raise ValueError(f"{path} must have {len(kinds)} values; got {len(values)}")
    pairs = enumerate(zip(values, kinds, strict=True))
    return tuple(_convert(value, kind, f"{path}[{index}]") for index, (value, kind) in pairs)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where} must be TOML; {error}") from None


def _merge(table: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value
