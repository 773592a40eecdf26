"""What version 2 wraps chunks and the end in: a marker to find them by, their size, and a checksum.

    0      1  0xD7
    1      1  kind: "C" a chunk, "E" the end
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
END = b"E"
MARKER_SIZE = 2
MAX_HEAD = MARKER_SIZE + 4
HEAD = re.compile(rb"\xd7[CE](?:[\x00-\x7f]|[\x80-\xff]{1,3}[\x01-\x7f])")

# After damage every marker may be the start of a frame, and claim megabytes that a checksum is to be computed of: many
# of them, side by side, would take time with the square of their number. So every byte that was searched pays for this
# many bytes of checksums, beside the first ones, which are free. A frame that cannot be paid for is passed over.
PAID_PER_BYTE = 16
FREE = 1 << 24


class Frame(NamedTuple):
    """A frame whose checksum fits.

    Attributes:
        position: Of its first byte in the file.
        size: All its bytes.
    """

    position: int
    kind: bytes
    body: bytes
    size: int

    def cursor(self) -> Cursor:
        """A place at the start of the body."""
        return Cursor(self.body, self.position + self.size - CHECKSUM.size - len(self.body))


def frame(kind: bytes, body: bytes) -> bytes:
    """Wrap a body."""
    return append_checksum(MARK + kind + varint(len(body)) + body)


def read_frame(window: Window, limits: dict[bytes, int], what: str) -> Frame:
    """Read the frame that stands here; the window does not move.

    Args:
        window: Stands where the frame must begin.
        limits: Bytes that the body of each kind may have.
        what: Name of what must be here, for errors.

    Raises:
        BitstreamError: There is none, or it is damaged or truncated.
    """
    start = window.position
    head = window.peek(MAX_HEAD)
    if len(head) < MAX_HEAD:  # no frame is so short
        where = "in" if head else "before"
        message = f"truncated: the file ends {where} {what}, without an end block; it is whole up to here"
        raise BitstreamError(start, message)
    found = HEAD.match(head)
    if found is None:
        raise BitstreamError(start, f"{what} must start with a marker and a size; got {head.hex()}")
    kind, size = _parse(found[0])
    if size > limits.get(kind, -1):
        raise BitstreamError(start, f"{what} must have at most {limits.get(kind, 0)} bytes; got {size}")
    total = len(found[0]) + size + CHECKSUM.size
    data = window.peek(total)
    if len(data) < total:
        raise truncated(start, what, total, len(data))
    cursor = Cursor(data, start)
    cursor.take(len(found[0]), what)
    body = bytes(cursor.take(size, what))
    cursor.read_checksum(start, what)
    return Frame(start, kind, body, total)


def find_frame(window: Window, limits: dict[bytes, int]) -> bool:
    """Move on to the next whole frame after this place; False, and to the end of the file, if there is none.

    The time is in proportion to the bytes that are passed over, whatever they are.
    """
    start, spent = window.position, 0
    while head := window.find(HEAD, MAX_HEAD):
        kind, size = _parse(head)
        if size > limits.get(kind, -1):
            continue
        total = len(head) + size + CHECKSUM.size
        if spent + total > FREE + PAID_PER_BYTE * (window.position - start):
            continue
        spent += total
        data = window.peek(total)
        if len(data) == total and crc32(data[: -CHECKSUM.size]) == CHECKSUM.unpack(data[-CHECKSUM.size :])[0]:
            return True
    return False


def _parse(head: bytes) -> tuple[bytes, int]:
    """Kind and size that stand in a head."""
    return head[1:MARKER_SIZE], sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[MARKER_SIZE:]))
