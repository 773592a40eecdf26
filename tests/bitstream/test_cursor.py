from struct import Struct
from zlib import crc32

import pytest

from codec.bitstream.cursor import BitstreamError, Cursor, append_checksum


def test_takes_bytes_one_after_the_other():
    cursor = Cursor(b"abcdef")
    assert bytes(cursor.take(2, "start")) == b"ab"
    assert cursor.read(Struct("<H"), "number") == (0x6463,)
    assert (cursor.position, cursor.remaining) == (4, 2)


def test_the_end_is_an_error_and_moves_nothing():
    cursor = Cursor(b"abcdef")
    cursor.take(4, "start")
    with pytest.raises(BitstreamError, match=r"^byte 4: truncated: rest takes 3 bytes, of which 2 are there$") as info:
        cursor.take(3, "rest")
    assert info.value.position == cursor.position == 4


def test_a_checksum_is_little_endian_crc32_of_what_stands_before():
    data = append_checksum(b"abc")
    assert data == b"abc" + crc32(b"abc").to_bytes(4, "little")
    cursor = Cursor(b"skipped" + data)
    cursor.take(10, "text")
    cursor.read_checksum(7, "text")
    assert cursor.remaining == 0


def test_another_checksum_is_an_error_at_the_start_of_what_it_covers():
    cursor = Cursor(b"..abc" + b"1234")
    cursor.take(5, "text")
    message = f"^byte 2: text is damaged: its checksum must be 34333231; got {crc32(b'abc'):08x}$"
    with pytest.raises(BitstreamError, match=message):
        cursor.read_checksum(2, "text")
