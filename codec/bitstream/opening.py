"""The first bytes of a file of codes: magic, version, and the header of that version.

Every version starts with the same 6 bytes; what follows is up to its module. Old versions stay readable.
"""

from collections.abc import Callable
from struct import Struct

from codec.bitstream import version_1, version_2
from codec.bitstream.cursor import BitstreamError, Cursor
from codec.bitstream.stream import MAGIC, Header
from codec.bitstream.window import Window

VERSION = Struct("<H")
READ_HEADER: dict[int, Callable[[Window], Header]] = {
    version_1.NUMBER: version_1.read_header,
    version_2.NUMBER: version_2.read_header,
}


def read_opening(window: Window) -> tuple[int, Header]:
    """Read version and header, and move to the first chunk.

    Raises:
        BitstreamError: This is another kind of file, of an unknown version, or its header is damaged.
    """
    cursor = Cursor(window.peek(len(MAGIC) + VERSION.size), window.position)
    magic = bytes(cursor.take(len(MAGIC), "magic number"))
    if magic != MAGIC:
        raise BitstreamError(window.position, f"not a file of codes: it must start with {MAGIC!r}; got {magic!r}")
    (number,) = cursor.read(VERSION, "version number")
    if number not in READ_HEADER:
        known = ", ".join(map(str, READ_HEADER))
        raise BitstreamError(window.position + len(MAGIC), f"version must be one of {known}; got {number}")
    return number, READ_HEADER[number](window)
