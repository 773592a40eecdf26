from struct import Struct
from zlib import crc32

import pytest

from codec.bitstream.cursor import BitstreamError, Cursor, append_checksum, truncated, varint


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


def test_positions_count_from_the_start_of_the_file():
    cursor = Cursor(append_checksum(b"abc"), 100)
    cursor.take(3, "text")
    cursor.read_checksum(100, "text")
    assert (cursor.position, cursor.remaining) == (107, 0)
    with pytest.raises(BitstreamError, match=r"^byte 107: truncated: more takes 1 bytes, of which 0 are there$"):
        cursor.take(1, "more")
    assert str(truncated(7, "chunk 1", 5, 2)) == (
        "byte 7: truncated: chunk 1 takes 5 bytes, of which 2 are there; the file is whole up to here"
    )


@pytest.mark.parametrize(
    ("value", "data"),
    [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (16_384, "808001"), (2**63 - 1, "ff" * 8 + "7f")],
)
def test_varints_have_seven_bits_a_byte(value, data):
    assert varint(value).hex() == data
    cursor = Cursor(bytes.fromhex(data) + b"more")
    assert cursor.read_varint("number") == value
    assert cursor.remaining == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "byte 3: truncated: number takes 1 bytes, of which 0 are there"),
        ("80", "byte 4: truncated: number takes 1 bytes, of which 0 are there"),
        ("8000", "byte 3: number must be written in as few bytes as it needs"),
        ("ff" * 9 + "01", "byte 3: number must be below 2 \\*\\* 63"),
    ],
)
def test_other_varints_are_errors(data, message):
    with pytest.raises(BitstreamError, match=f"^{message}$"):
        Cursor(bytes.fromhex(data), 3).read_varint("number")
