"""Tags of a file of codes: short texts by name, such as the title and the artist."""

import re
from collections.abc import Mapping

MAX_TAGS = 64
MAX_KEY_BYTES = 255
MAX_VALUE_BYTES = 4096

# What must not reach a terminal from anyone's file: control characters, line and paragraph separators, and what
# overrides the direction of writing. Written out, not asked of `str.isprintable`, whose answer depends on the version
# of Unicode: what one machine writes, every other one must read. Surrogates are no characters, and have no bytes.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SAFE = "bytes of UTF-8 without control characters"


def check_tags(tags: Mapping[str, str]) -> None:
    """Check what a file can hold.

    Raises:
        ValueError: There are more than 64 tags, a key is empty or above 255 bytes of UTF-8, a value is above 4096
            bytes, or one of them has a control character.
    """
    if len(tags) > MAX_TAGS:
        raise ValueError(f"there must be at most {MAX_TAGS} tags; got {len(tags)}")
    for key, value in tags.items():
        if not key or not is_safe(key, MAX_KEY_BYTES):
            raise ValueError(f"key of a tag must be of 1 to {MAX_KEY_BYTES} {SAFE}; got {_shorten(key)}")
        if not is_safe(value, MAX_VALUE_BYTES):
            raise ValueError(f"tag {_shorten(key)} must be of 0 to {MAX_VALUE_BYTES} {SAFE}; got {_shorten(value)}")


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Make any texts tags of a file: control characters become spaces, what is too long is cut, what is empty left out.

    Of more than 64 tags the first stay.
    """
    clean: dict[str, str] = {}
    for key, value in tags.items():
        key, value = _clean(key, MAX_KEY_BYTES), _clean(value, MAX_VALUE_BYTES)
        if key and value and len(clean) < MAX_TAGS:
            clean.setdefault(key, value)
    return clean


def is_safe(text: str, max_bytes: int) -> bool:
    """Whether a file can hold a text, and a terminal show it."""
    # The pattern first: a surrogate cannot be encoded.
    return not UNSAFE.search(text) and len(text.encode()) <= max_bytes


def _shorten(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")


def _clean(text: str, max_bytes: int) -> str:
    return UNSAFE.sub(" ", text).encode()[:max_bytes].decode(errors="ignore").strip()
