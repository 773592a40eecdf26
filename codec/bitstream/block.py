"""What version 2 wraps chunks and the end in: a marker to find them by, their size, and a checksum.

    0      1  0xD7
    1      1  kind: "C" a chunk, "P" a packed chunk of an entropy-coded file, "E" the end
    2      v  n, the bytes of the body (varint, see `cursor`)
2 + v      n  body
2 + v + n  4  CRC32 of all bytes before, from the marker on
"""

import re
from typing import NamedTuple
from zlib import crc32

from codec.bitstream.cursor import CHECKSUM, BitstreamError, Cursor, append_checksum, truncated, varint
from codec.bitstream.window import Window

MARK = b"\xd7"
CHUNK = b"C"
PACKED_CHUNK = b"P"
END = b"E"
END_NAME = "end block"
MARKER_SIZE = 2
MAX_HEAD = MARKER_SIZE + 4
HEAD = re.compile(rb"\xd7[CPE](?:[\x00-\x7f]|[\x80-\xff]{1,3}[\x01-\x7f])")


class Block(NamedTuple):
    """A block whose checksum fits.

    Attributes:
        position: Of its first byte in the file.
        kind: As above.
        body: What it holds.
        size: All its bytes.
    """

    position: int
    kind: bytes
    body: bytes
    size: int

    def cursor(self) -> Cursor:
        """A place at the start of the body."""
        return Cursor(self.body, self.position + self.size - CHECKSUM.size - len(self.body))


def block(kind: bytes, body: bytes) -> bytes:
    """Wrap a body."""
    return append_checksum(MARK + kind + varint(len(body)) + body)


def read_block(window: Window, limits: dict[bytes, int], what: str) -> Block:
    """Read the block that stands here; the window does not move.

    Args:
        window: Stands where the block must begin.
        limits: Bytes that the body of each kind may have.
        what: Name of what must be here, for errors.

    Raises:
        BitstreamError: There is none, or it is damaged or truncated, or too many claimed to be long before.
    """
    start = window.position
    head = window.peek(MAX_HEAD)
    if len(head) < MAX_HEAD:  # no block is so short
        where = "in" if head else "before"
        message = f"truncated: the file ends {where} {what}, without an end block; it is whole up to here"
        raise BitstreamError(start, message)
    found = HEAD.match(head)
    if found is None:
        raise BitstreamError(start, f"{what} must start with a marker and a size; got {head.hex()}")
    kind, size = _parse(found[0])
    what = END_NAME if kind == END else what
    if size > limits.get(kind, -1):
        raise BitstreamError(start, f"{what} must have at most {limits.get(kind, 0)} bytes; got {size}")
    total = len(found[0]) + size + CHECKSUM.size
    if not window.pay(total):
        raise BitstreamError(
            start, f"{what} claims {total} bytes, after many others that claimed what they do not have"
        )
    data = window.peek(total)
    if len(data) < total:
        raise truncated(start, what, total, len(data))
    cursor = Cursor(data, start)
    cursor.take(len(found[0]), what)
    body = bytes(cursor.take(size, what))
    cursor.read_checksum(start, what)
    return Block(start, kind, body, total)


def find_block(window: Window, limits: dict[bytes, int]) -> bool:
    """Move on to the next whole block after this place; False, and to the end of the file, if there is none.

    A block that cannot be paid for (see `Window.pay`) is passed over.
    """
    while head := window.find(HEAD, MAX_HEAD):
        kind, size = _parse(head)
        total = len(head) + size + CHECKSUM.size
        if size > limits.get(kind, -1) or not window.pay(total):
            continue
        data = window.peek(total)
        if len(data) == total and crc32(data[: -CHECKSUM.size]) == CHECKSUM.unpack(data[-CHECKSUM.size :])[0]:
            return True
    return False


def _parse(head: bytes) -> tuple[bytes, int]:
    """Kind and size that stand in a head."""
    return head[1:MARKER_SIZE], sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[MARKER_SIZE:]))
