"""What corpora call the things that they tell of a recording."""

from collections.abc import Iterable
from typing import Any

# The first one that is there counts. LibriSpeech, VCTK, Common Voice and others have them in their data sets.
NAMES = {
    "id": ("id",),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "transcript": ("transcript", "transcription", "text", "sentence"),
}


def find_name(names: Iterable[str], field: str) -> str | None:
    """Find what a corpus calls a field.

    Args:
        names: Columns or keys that it has.
        field: "id", "speaker" or "transcript".

    Returns:
        One of `names`; None if the field is not there.
    """
    there = set(names)
    return next((name for name in NAMES[field] if name in there), None)


def to_text(value: Any) -> str | None:
    """Valid Unicode of a value that is text or a whole number; None of everything else, and of empty text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return printable(value) if isinstance(value, str) and value else None


def printable(text: str) -> str:
    r"""Valid Unicode of a name of a file, which is bytes: those that are no UTF-8 become "\xff"."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
