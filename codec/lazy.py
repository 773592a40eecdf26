"""Packages whose names are imported when they are asked for: parts of them do without what the others need."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def import_from(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """What a package calls `__getattr__` (PEP 562).

    Args:
        package: Its `__name__`, for messages.
        homes: The names that it offers, and the module that each comes from.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get
