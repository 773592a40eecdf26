"""A name from a configuration -> the piece it stands for."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

Piece = TypeVar("Piece")


def choose(table: Mapping[str, Piece], name: str, what: str) -> Piece:
    """Look up a piece by its name.

    Args:
        table: Names and the pieces they stand for.
        name: The name asked for.
        what: What the table holds, in the singular, for the message ("distance").

    Raises:
        ValueError: No piece has that name; the message lists those there are.
    """
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(sorted(table))}; got {name!r}{did_you_mean(name, table)}")
    return table[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy to append to a message about an unknown name; empty if nothing known comes near."""
    nearest = get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
