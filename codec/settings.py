"""Tables of a configuration (TOML, JSON) -> dataclasses, with every key and type checked."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from codec.choose import did_you_mean

Settings = TypeVar("Settings")


def settings_from(table: Mapping[str, Any], kind: type[Settings], where: str = "") -> Settings:
    """Make a dataclass from a table; nested dataclasses from nested tables.

    Args:
        table: Keys and values; keys that are left out keep their defaults.
        kind: A dataclass whose fields are dataclasses, str, bool, int, float, or tuples of those.
        where: Dotted path of the table, for messages.

    Raises:
        ValueError: A key is unknown (the message names the nearest known one), lacking, or of another type.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise ValueError(f"unknown setting {where}{key}{did_you_mean(key, known)}")
    values = {key: _convert(value, hints[key], f"{where}{key}") for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"settings {where.rstrip('.') or 'at top level'} are incomplete: {error}") from None


def _convert(value: Any, kind: Any, path: str) -> Any:
    if is_dataclass(kind) and isinstance(value, Mapping):
        return settings_from(value, kind, f"{path}.")  # type: ignore[arg-type]
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(item, get_args(kind)[0], path) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    # bool is an int in Python, but no number of anything.
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{path} must be {getattr(kind, '__name__', kind)}; got {value!r}")
