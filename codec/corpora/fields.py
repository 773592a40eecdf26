"""What corpora call the things that they tell of a recording."""

import math
import re
from collections.abc import Iterable
from typing import Any

# The first one that is there counts. LibriSpeech, VCTK, Common Voice and others have them in their data sets.
NAMES = {
    "id": ("id",),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "transcript": ("transcript", "transcription", "text", "sentence"),
}

# Halves of characters that stand alone: JSON can hold them, UTF-8 cannot. Those in between stand for odd bytes.
HALVES = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


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
    """Valid Unicode of a value that is text or a number; None of everything else, and of empty text.

    Whole numbers have no point: tables keep them as floats where some are lacking.
    """
    if isinstance(value, str):
        return printable(value) or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value
    return str(value)


def printable(text: str) -> str:
    r"""Valid Unicode of any text.

    The name of a file is bytes: those that are no UTF-8 become "\xff". Half a character becomes "\ud83d".
    """
    if text.isascii():
        return text
    whole = HALVES.sub(lambda half: half[0].encode("ascii", "backslashreplace").decode(), text)
    return whole.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
