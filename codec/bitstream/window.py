"""Reading a file of any size, or a pipe, through a small window that moves forward."""

import re
from typing import BinaryIO

# What is read ahead of need; as much again may lie behind.
READ_SIZE = 1 << 14

# In a damaged file every marker may be the start of a block, and claim megabytes that a checksum is to be computed of:
# many of them, side by side, would take time with the square of their number. So every byte that the window moves over
# pays for this many bytes of checksums, beside the first ones, which are free. Whole blocks pay for themselves.
PAID_PER_BYTE = 16
FREE = 1 << 24


class Window:
    """The bytes of a binary file from some position on.

    Takes what a pipe has to offer and does not wait for more than it was asked for. Memory is that of the longest
    `peek`, and a little more.

    Args:
        file: Read from where it stands; that is position 0.

    Attributes:
        position: Of the window's first byte.
        seekable: Whether the window can move to anywhere.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self.seekable = file.seekable()
        self._file = file
        self._origin = file.tell() if self.seekable else 0
        self._credit = FREE
        # At most one call of the system; `read` would wait until it has everything. A raw file has only `read`, which
        # behaves so.
        self._read = getattr(file, "read1", file.read)
        self._buffer = bytearray()
        self._start = 0

    def peek(self, size: int) -> bytes:
        """The next bytes, without moving: `size` of them, or fewer where the file ends."""
        while len(self._buffer) - self._start < size and self._extend(size):
            pass
        return bytes(memoryview(self._buffer)[self._start : self._start + size])

    def skip(self, size: int) -> None:
        """Move over bytes that were peeked at."""
        self._start += size
        self.position += size
        self._credit += PAID_PER_BYTE * size

    def pay(self, size: int) -> bool:
        """Whether a checksum of so many bytes may be computed, so that all together take time as the bytes read do."""
        if size > self._credit:
            return False
        self._credit -= size
        return True

    def find(self, pattern: re.Pattern[bytes], longest: int) -> bytes:
        """Move on to the first place after this one where `pattern` stands.

        Args:
            pattern: Matches 1 to `longest` bytes.
            longest: See there.

        Returns:
            What matches; nothing if there is no such place, and the window has moved to the end.
        """
        if self._start == len(self._buffer) and not self._extend(1):
            return b""
        self.skip(1)
        while (found := pattern.search(self._buffer, self._start)) is None:
            # The first bytes of a match may stand at the end of what is here.
            kept = min(longest - 1, len(self._buffer) - self._start)
            self.skip(len(self._buffer) - self._start - kept)
            if not self._extend(READ_SIZE):
                self.skip(kept)
                return b""
        self.skip(found.start() - self._start)
        return found[0]

    def size(self) -> int:
        """Bytes from position 0 to the end; only for a seekable file. The window has to be moved afterwards."""
        return self._file.seek(0, 2) - self._origin

    def seek(self, position: int) -> None:
        """Move to anywhere; only for a seekable file."""
        self._file.seek(self._origin + position)
        self._buffer.clear()
        self._start = 0
        self.position = position
        # Whoever moves about in a whole file, from its end block to one chunk and another, is not to run out of credit.
        self._credit = max(self._credit, FREE)

    def _extend(self, size: int) -> bool:
        """Read some bytes more, about `size`; False at the end."""
        if self._start >= READ_SIZE:
            del self._buffer[: self._start]
            self._start = 0
        data: bytes = self._read(max(size, READ_SIZE))
        self._buffer += data
        return bool(data)
