import re
import time
from io import BytesIO
from zlib import crc32

import numpy as np
import pytest

from codec.bitstream import BitstreamError, Header, verify
from codec.bitstream.block import CHUNK, END, block, find_block, read_block
from codec.bitstream.cursor import varint
from codec.bitstream.version_2 import write_header
from codec.bitstream.window import Window

LIMITS = {CHUNK: 1000, END: 100_000}


def test_a_block_is_mark_kind_size_body_and_checksum():
    assert block(CHUNK, b"abc") == b"\xd7C\x03abc" + crc32(b"\xd7C\x03abc").to_bytes(4, "little")
    assert block(END, bytes(300))[:4] == b"\xd7E\xac\x02"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 1000])
def test_a_block_comes_back_and_nothing_moves(size):
    body = np.random.default_rng(0).bytes(size)
    window = Window(BytesIO(b"..." + block(CHUNK, body) + b"more"))
    window.skip(len(window.peek(3)))
    found = read_block(window, LIMITS, "chunk 0")
    assert (found.position, found.kind, found.body, found.size) == (3, CHUNK, body, len(block(CHUNK, body)))
    assert window.position == 3
    assert found.cursor().position == 3 + found.size - 4 - size


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: the file ends before chunk 7, without an end block; it is whole up to here"),
        (b"\xd7C\x03", "truncated: the file ends in chunk 7, without an end block; it is whole up to here"),
        (
            block(CHUNK, b"abc")[:-1],
            "truncated: chunk 7 takes 10 bytes, of which 9 are there; the file is whole up to here",
        ),
        (b"RIFF....", "chunk 7 must start with a marker and a size; got 524946462e2e"),
        (b"\xd7C\x80\x00....", "chunk 7 must start with a marker and a size; got d74380002e2e"),
        (b"\xd7C" + b"\xff" * 9, "chunk 7 must start with a marker and a size; got d743ffffffff"),
        (block(CHUNK, bytes(1001)), "chunk 7 must have at most 1000 bytes; got 1001"),
        (
            b"\xd7C\x01a....",
            f"chunk 7 is damaged: its checksum must be 2e2e2e2e; got {crc32(bytes.fromhex('d7430161')):08x}",
        ),
    ],
)
def test_anything_else_is_an_error(data, message):
    with pytest.raises(BitstreamError, match=f"^byte 0: {re.escape(message)}$"):
        read_block(Window(BytesIO(data)), LIMITS, "chunk 7")


def test_the_next_whole_block_is_found():
    rng = np.random.default_rng(0)
    damaged = bytearray(block(CHUNK, rng.bytes(50)))
    damaged[20] ^= 1
    data = bytes(damaged) + rng.bytes(30_000) + b"\xd7C\x05" + block(END, b"inside")
    window = Window(BytesIO(data))
    assert find_block(window, LIMITS)
    assert window.position == len(data) - len(block(END, b"inside"))
    assert not find_block(window, LIMITS)
    assert window.position == len(data)


@pytest.mark.parametrize("claim", [b"\xd7C", b"\xd7C\x01", b"\xd7C\xe8\x07", b"\xd7E\xff\x7f", b"\xd7"])
def test_searching_takes_time_in_proportion_to_the_bytes(claim):
    # A checksum of all that each of them claims would be gigabytes: a minute and more.
    data = claim * (1_000_000 // len(claim)) + bytes(20_000) + block(CHUNK, b"abc")
    window, start = Window(BytesIO(data)), time.process_time()
    assert find_block(window, LIMITS)
    assert window.position == len(data) - 10
    assert time.process_time() - start < 8


HEADER = Header("tiny", "0123456789abcdef", 16_000, 1, None, 3, 5, None, 1, 16_000, 320)


@pytest.mark.parametrize("kind", ["nested end blocks", "claims between blocks"])
def test_a_file_made_to_be_slow_is_not(kind):
    if kind == "nested end blocks":  # each with an index of nearly as many sizes as it must have
        body = b"\x01" * 300_000
        for _ in range(60):
            body = block(END, varint(300_000) + varint(320) + varint(0) + body)
        data = body
    else:  # none of them costs much, but there are very many
        unit = block(CHUNK, b"") + 3 * (b"\xd7E" + varint(5_400_000))
        data = 40_000 * unit + bytes(5_400_100)
    start = time.process_time()
    problems = verify(BytesIO(write_header(HEADER) + data)).problems
    assert time.process_time() - start < 8
    assert problems
