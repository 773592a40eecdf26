import re
import time
from io import BytesIO
from zlib import crc32

import numpy as np
import pytest

from codec.bitstream import BitstreamError
from codec.bitstream.frame import CHUNK, END, find_frame, frame, read_frame
from codec.bitstream.window import Window

LIMITS = {CHUNK: 1000, END: 100_000}


def test_a_frame_is_mark_kind_size_body_and_checksum():
    assert frame(CHUNK, b"abc") == b"\xd7C\x03abc" + crc32(b"\xd7C\x03abc").to_bytes(4, "little")
    assert frame(END, bytes(300))[:4] == b"\xd7E\xac\x02"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 1000])
def test_a_frame_comes_back_and_nothing_moves(size):
    body = np.random.default_rng(0).bytes(size)
    window = Window(BytesIO(b"..." + frame(CHUNK, body) + b"more"))
    window.skip(len(window.peek(3)))
    found = read_frame(window, LIMITS, "chunk 0")
    assert (found.position, found.kind, found.body, found.size) == (3, CHUNK, body, len(frame(CHUNK, body)))
    assert window.position == 3
    assert found.cursor().position == 3 + found.size - 4 - size


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: the file ends before chunk 7, without an end block; it is whole up to here"),
        (b"\xd7C\x03", "truncated: the file ends in chunk 7, without an end block; it is whole up to here"),
        (
            frame(CHUNK, b"abc")[:-1],
            "truncated: chunk 7 takes 10 bytes, of which 9 are there; the file is whole up to here",
        ),
        (b"RIFF....", "chunk 7 must start with a marker and a size; got 524946462e2e"),
        (b"\xd7C\x80\x00....", "chunk 7 must start with a marker and a size; got d74380002e2e"),
        (b"\xd7C" + b"\xff" * 9, "chunk 7 must start with a marker and a size; got d743ffffffff"),
        (frame(CHUNK, bytes(1001)), "chunk 7 must have at most 1000 bytes; got 1001"),
        (
            b"\xd7C\x01a....",
            f"chunk 7 is damaged: its checksum must be 2e2e2e2e; got {crc32(bytes.fromhex('d7430161')):08x}",
        ),
    ],
)
def test_anything_else_is_an_error(data, message):
    with pytest.raises(BitstreamError, match=f"^byte 0: {re.escape(message)}$"):
        read_frame(Window(BytesIO(data)), LIMITS, "chunk 7")


def test_the_next_whole_frame_is_found():
    rng = np.random.default_rng(0)
    damaged = bytearray(frame(CHUNK, rng.bytes(50)))
    damaged[20] ^= 1
    data = bytes(damaged) + rng.bytes(30_000) + b"\xd7C\x05" + frame(END, b"inside")
    window = Window(BytesIO(data))
    assert find_frame(window, LIMITS)
    assert window.position == len(data) - len(frame(END, b"inside"))
    assert not find_frame(window, LIMITS)
    assert window.position == len(data)


@pytest.mark.parametrize("claim", [b"\xd7C", b"\xd7C\x01", b"\xd7C\xe8\x07", b"\xd7E\xff\x7f", b"\xd7"])
def test_searching_takes_time_in_proportion_to_the_bytes(claim):
    # A checksum of all that each of them claims would be gigabytes: a minute and more.
    data = claim * (1_000_000 // len(claim)) + bytes(20_000) + frame(CHUNK, b"abc")
    window, start = Window(BytesIO(data)), time.process_time()
    assert find_frame(window, LIMITS)
    assert window.position == len(data) - 10
    assert time.process_time() - start < 8
