from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from codec.bitstream import BitstreamError, Header, Stream, verify, write_stream
from codec.bitstream.cursor import varint

HEADER = Header("tiny", "0123456789abcdef", 16_000, 1, 320 * 78, 3, 5, 78, 4, 16_000, 320)
CODES = np.random.default_rng(0).integers(0, 32, (1, 3, 78))
FILE = write_stream(Stream(HEADER, CODES))


def test_a_whole_file_has_no_problems(fuzz):
    for data in (FILE, fuzz.write_version_1(Stream(replace(HEADER, model_rate=None, hop_length=None), CODES))):
        for file in (BytesIO, fuzz.Pipe):
            found = verify(file(data))
            assert (found.num_chunks, found.num_frames, found.length) == (20, 78, 320 * 78)
            assert found.payload_bytes == 19 * 8 + 4  # ceil(4 * 3 * 5 / 8), ceil(2 * 3 * 5 / 8)
            assert found.problems == []
    assert (found.version, found.header.model) == (1, "tiny")


def test_entropy_coded_files_are_checked_without_their_tables(fuzz):
    tables = fuzz.tiny_tables()
    data = write_stream(Stream(replace(HEADER, entropy=tables.fingerprint), CODES), tables)
    found = verify(BytesIO(data))
    payloads = [tables.encode(CODES[:, :, first : first + 4]) for first in range(0, 78, 4)]
    assert (found.num_frames, found.payload_bytes, found.problems) == (78, sum(map(len, payloads)), [])
    assert len(payloads) == 20
    damaged = bytearray(data)
    damaged[200] ^= 1
    assert len(verify(BytesIO(damaged)).problems) == 1


def test_all_problems_are_listed(fuzz):
    parts = fuzz.split(FILE)
    data = bytearray(fuzz.join([*parts[:4], parts[2], *parts[4:10], *parts[12:]], 2)) + b"more"
    data[80] ^= 1
    found = verify(BytesIO(data))
    assert (found.num_chunks, found.num_frames) == (17, 78 - 3 * 4)
    assert [problem.split(": ")[1].split(" (at ")[0] for problem in found.problems[:2]] == ["chunk 0", "chunk 9"]
    assert "chunk 3 (at 0.24 s) must come here; got chunk 1, which was there already" in found.problems[2]
    assert "the file must end here" in found.problems[-1]


def test_a_header_that_cannot_be_read_is_an_error():
    with pytest.raises(BitstreamError, match=r"^byte 0: not a file of codes"):
        verify(BytesIO(b"RIFF" + FILE[4:200]))


def test_no_more_than_some_hundred_problems_are_listed(fuzz):
    parts = fuzz.split(FILE)
    doubled = [parts[1]] * 5000
    odd = [b"\xd7C" + varint(2 * number) + parts[1][3:] for number in range(3000)]
    for data in (
        fuzz.join([*parts[:2], *doubled, *parts[2:]], 2),
        fuzz.join([fuzz.split(FILE)[0][:14] + bytes(8) + parts[0][22:25] + bytes(8) + parts[0][33:], *odd], 2),
    ):
        found = verify(BytesIO(data))
        assert 90 < len(found.problems) <= 202
    assert "and more" in verify(BytesIO(fuzz.join([*parts[:2], *doubled, *parts[2:]], 2))).problems
