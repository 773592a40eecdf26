import os
import re
from io import BytesIO

import pytest

from codec.bitstream.window import READ_SIZE, Window


class Slow(BytesIO):
    """A pipe that has few bytes at a time."""

    def seekable(self):
        return False

    def read1(self, size=-1):
        return super().read1(3)


def test_peeking_moves_nothing_and_skipping_does():
    window = Window(Slow(b"abcdefgh"))
    assert window.peek(5) == b"abcde"
    window.skip(2)
    assert (window.position, window.peek(3)) == (2, b"cde")
    assert window.peek(100) == b"cdefgh"
    window.skip(6)
    assert (window.position, window.peek(1)) == (8, b"")


def test_finds_what_begins_in_one_read_and_ends_in_the_next():
    for place in range(1, 20):
        window = Window(Slow(b"." * place + b"xyz" + b"." * 5))
        assert window.find(re.compile(b"xyz"), 3) == b"xyz"
        assert window.position == place
        assert window.find(re.compile(b"xyz"), 3) == b""
        assert (window.position, window.peek(1)) == (place + 8, b"")


def test_a_place_that_stands_here_is_not_the_next():
    window = Window(BytesIO(b"xxx"))
    assert [(window.find(re.compile(b"x"), 1), window.position) for _ in range(4)] == [
        (b"x", 1),
        (b"x", 2),
        (b"", 3),
        (b"", 3),
    ]


def test_seeks_from_where_the_file_stood():
    file = BytesIO(b"before" + bytes(range(100)))
    file.seek(6)
    window = Window(file)
    window.peek(10)
    assert window.size() == 100
    window.seek(50)
    assert (window.position, window.peek(2)) == (50, bytes([50, 51]))


def test_memory_is_that_of_what_is_looked_at():
    window = Window(BytesIO(bytes(100 * READ_SIZE)))
    for _ in range(1000):
        window.skip(len(window.peek(READ_SIZE // 10)))
    assert len(window._buffer) <= 3 * READ_SIZE


@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_pipe_is_not_waited_for(buffering):
    source, sink = os.pipe()
    with os.fdopen(source, "rb", buffering=buffering) as file, os.fdopen(sink, "wb", buffering=0) as end:
        end.write(b"abc")
        assert Window(file).peek(3) == b"abc"  # would block if it asked for more
