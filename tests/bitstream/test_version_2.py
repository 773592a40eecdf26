import re
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from codec.bitstream import BitstreamError, Header, Stream, StreamReader, StreamWriter, read_header, read_stream
from codec.bitstream.cursor import varint

DOCS = Path(__file__).parents[2] / "docs" / "format.md"

# What stands in tests/data, and in docs/format.md. Files like these exist: no change may alter a byte of them.
GOLDEN = Header(
    model="tïny",
    fingerprint="0123456789abcdef",
    sample_rate=44_100,
    channels=2,
    length=1234,
    num_quantizers=2,
    bits=3,
    num_frames=3,
    frames_per_chunk=2,
    model_rate=16_000,
    hop_length=320,
    tags={"title": "Ode", "artist": "Anna Ärm"},
)
GOLDEN_CODES = np.array([[[1, 5, 1], [2, 6, 1]], [[3, 7, 0], [4, 0, 7]]])
LIVE = Header("tiny", "0123456789abcdef", 16_000, 1, None, 1, 10, None, 2, 16_000, 320)
LIVE_CODES = (np.arange(33) * 31 % 1024)[None, None]
LIVE_LENGTH = 33 * 320 - 7


class MiniReader:
    """What docs/format.md says, and nothing of the package."""

    def __init__(self, data):
        self.data, self.place, self.chunks = data, 0, []
        assert self.take(6) == b"RVQC\2\0"
        (size,) = struct.unpack("<I", self.take(4))
        self.header = self.read_fields(self.take(size))
        self.check(0)
        while self.read_frame():
            pass
        end_size = self.place - self.end_start
        assert self.take(8) == struct.pack("<I", end_size) + b"CQVR"
        assert self.place == len(data)

    def take(self, size):
        self.place += size
        return self.data[self.place - size : self.place]

    def check(self, start):
        crc = zlib.crc32(self.data[start : self.place])
        assert struct.unpack("<I", self.take(4)) == (crc,)

    def varint(self):
        byte = self.take(1)[0]
        return byte if byte < 128 else byte - 128 + 128 * self.varint()

    def read_fields(self, fields):
        names = ["fingerprint", "rate", "channels", "length", "stages", "bits", "frames", "per_chunk", "model_rate"]
        numbers = struct.unpack_from("<8sIHQHBQIIIB8s", fields)
        header = dict(zip([*names, "hop_length", "coding", "tables"], numbers, strict=True))
        header["model"] = fields[55 : 55 + fields[54]].decode()
        place = 55 + fields[54]
        count, place, texts = fields[place], place + 1, []
        for size_of_size in [1, 2] * count:
            size = int.from_bytes(fields[place : place + size_of_size], "little")
            place += size_of_size + size
            texts.append(fields[place - size : place].decode())
        assert place == len(fields)
        return header | {"tags": dict(zip(texts[::2], texts[1::2], strict=True))}

    def read_frame(self):
        start, (mark, kind) = self.place, self.take(2)
        end = self.varint() + self.place
        assert mark == 0xD7
        if kind == ord("C"):
            assert self.varint() == len(self.chunks)
            self.chunks.append((self.varint(), self.take(end - self.place), end + 4 - start))
        else:
            self.end_start, self.frames, self.length = start, self.varint(), self.varint()
            self.copy = self.take(self.varint())
            assert [self.varint() for _ in self.chunks] == [size for _, _, size in self.chunks]
        assert self.place == end
        self.check(start)
        return kind == ord("C")

    def codes(self):
        channels, stages, bits = (self.header[name] for name in ("channels", "stages", "bits"))
        for frames, payload, _ in self.chunks:
            number = int.from_bytes(payload, "little")
            codes = [number >> i * bits & 2**bits - 1 for i in range(frames * channels * stages)]
            yield np.reshape(codes, (frames, channels, stages)).transpose(1, 2, 0)


def write_live():
    file = BytesIO()
    file.seekable = lambda: False
    writer = StreamWriter(file, LIVE)
    writer.write(LIVE_CODES)
    writer.close(LIVE_LENGTH)
    return file.getvalue()


def test_the_golden_files_are_written(data):
    file = BytesIO()
    writer = StreamWriter(file, GOLDEN)
    writer.write(GOLDEN_CODES)
    writer.close(1234)
    assert file.getvalue() == (data / "version_2.rvq").read_bytes()
    assert write_live() == (data / "version_2_live.rvq").read_bytes()


def test_the_golden_files_are_read(data):
    stream = read_stream((data / "version_2.rvq").read_bytes())
    assert stream.header == GOLDEN
    assert np.array_equal(stream.codes, GOLDEN_CODES)
    live = (data / "version_2_live.rvq").read_bytes()
    assert read_header(live) == LIVE
    assert read_stream(live).header == replace(LIVE, length=LIVE_LENGTH, num_frames=33)
    assert np.array_equal(read_stream(live).codes, LIVE_CODES)


def test_a_reader_made_from_the_page_alone_reads_the_golden_files(data):
    short, live = (MiniReader((data / name).read_bytes()) for name in ("version_2.rvq", "version_2_live.rvq"))
    assert np.array_equal(np.concatenate([*short.codes()], axis=2), GOLDEN_CODES)
    assert short.header["tags"] == GOLDEN.tags
    assert (short.header["model"], short.header["fingerprint"].hex()) == (GOLDEN.model, GOLDEN.fingerprint)
    assert (short.header["length"], short.length, short.frames, short.copy) == (1234, 1234, 3, b"")
    assert np.array_equal(np.concatenate([*live.codes()], axis=2), LIVE_CODES)
    assert (live.header["length"], live.header["frames"], live.length, live.frames) == (0, 0, LIVE_LENGTH, 33)
    assert read_header(live.copy) == replace(LIVE, length=LIVE_LENGTH, num_frames=33)


def test_the_page_shows_the_golden_file(data):
    (dump,) = re.findall(r"^```text\n(.*?)^```", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    shown = [re.match("(?:[0-9a-f]{2} ?)*", line)[0] for line in dump.splitlines()]
    assert bytes.fromhex("".join(shown)) == (data / "version_2.rvq").read_bytes()


def test_every_changed_byte_and_every_cut_is_detected(data):
    golden = (data / "version_2.rvq").read_bytes()
    for position in range(len(golden)):
        with pytest.raises(BitstreamError, match=r"^byte \d+: truncated: "):
            read_stream(golden[:position])
        for difference in (1, 2, 64, 128, 255):
            damaged = bytearray(golden)
            damaged[position] ^= difference
            with pytest.raises(BitstreamError, match=r"^byte \d+: "):
                read_stream(bytes(damaged))


FIELDS_END = 10 + 54


@pytest.mark.parametrize(
    ("start", "changed", "message"),
    [
        (18, bytes(4), "header is wrong: sample_rate must be 1 to 1000000; got 0"),
        (24, b"\xff" * 8, "header is wrong: length must be 1 to 9223372036854775807; got 18446744073709551615"),
        (43, b"\xff" * 4, None),
        (55, b"\2", "header is wrong: coding must be 0 without tables, or 1; got 2 with 0000000000000000"),
        (56, b"\1", "header is wrong: coding must be 0 without tables, or 1; got 0 with 0100000000000000"),
        (
            FIELDS_END + 1,
            b"\x07",
            r"header is wrong: model must be of 1 to 255 bytes of UTF-8 without control characters; got '\x07\xefny'",
        ),
        (FIELDS_END + 6, b"\0", "header is wrong: it must end with its last tag; got 29 bytes more"),
        (FIELDS_END + 6, b"\3", "truncated: key of a tag takes 1 bytes, of which 0 are there"),
        (FIELDS_END + 7, b"\xff", "truncated: key of a tag takes 255 bytes, of which 28 are there"),
        (FIELDS_END + 8, b"\x1b", "header is wrong: key of a tag must be of 1 to 255 bytes of UTF-8 without"),
        (FIELDS_END + 8, b"\xff", "header is wrong: 'utf-8' codec can't decode byte 0xff in position 0"),
        (FIELDS_END + 15, b"\n", "header is wrong: tag 'title' must be of 0 to 4096 bytes of UTF-8 without"),
    ],
)
def test_a_header_that_is_wrong_in_itself_is_an_error(data, start, changed, message):
    golden = (data / "version_2.rvq").read_bytes()
    header = bytearray(golden[:100])
    header[start : start + len(changed)] = changed
    damaged = bytes(header) + struct.pack("<I", zlib.crc32(header)) + golden[104:]
    if message is None:  # frames that the header only allows
        assert read_header(damaged).frames_per_chunk == 2**32 - 1
        return
    with pytest.raises(BitstreamError, match=rf"^byte \d+: {re.escape(message)}"):
        read_header(damaged)


def test_a_key_stands_once(data, fuzz):
    parts = fuzz.split((data / "version_2.rvq").read_bytes())
    parts[0] = parts[0][: -len("artist") - 1 - 11] + parts[0][-len("artist") - 1 - 11 :].replace(
        b"\x06artist", b"\x05title"
    )
    with pytest.raises(
        BitstreamError, match=r"^byte 0: header is wrong: every tag must have a key of its own; got 'title'"
    ):
        read_stream(fuzz.join(parts, 2))


def test_a_header_that_claims_to_be_long_is_an_error():
    with pytest.raises(
        BitstreamError, match=r"^byte 0: header must have at most 278967 bytes of fields; got 4294967295$"
    ):
        read_header(b"RVQC\2\0" + b"\xff" * 1000)


def rebuilt(fuzz, index, body):
    """The live golden file with another body in a frame, and checksums that fit."""
    parts = fuzz.split(write_live())
    parts[index] = parts[index][:2] + body
    return fuzz.join(parts, 2)


@pytest.mark.parametrize(
    ("index", "body", "message"),
    [
        (1, b"", "truncated: number of a chunk takes 1 bytes, of which 0 are there"),
        (1, b"\x00\x03\x00\x7c\x00\x00", "chunk 0 (at 0.00 s) must have 2 frames; got 3"),
        (1, b"\x00\x00", "chunk 0 (at 0.00 s) must have 2 frames; got 0"),
        (1, b"\x00\x02\x00\x7c", "chunk 0 (at 0.00 s) is wrong: 2 values of 10 bits must be 3 bytes; got 2 bytes"),
        (1, b"\x00\x02\x00\x7c\x10", "chunk 0 (at 0.00 s) is wrong: the bits after the last value must be zero"),
        (2, b"\x02\x02\x3e\x74\x01", "chunk 1 (at 0.04 s) must come here; got chunk 2"),
        (2, b"\x00\x02\x3e\x74\x01", "chunk 1 (at 0.04 s) must come here; got chunk 0, which was there already"),
        (1, b"\x00\x01\x00\x00", "chunk 0 (at 0.00 s) must have 2 frames; got 1"),
        (18, b"\x00\x01\x00", "end block must hold frames, samples, and a header if the file has none"),
        (18, b"\x21\x01\x00" + b"\x0c" * 16, "end block must end with the sizes of 17 chunks; got 16"),
        (18, b"\x21\x01\x00" + b"\x0c" * 18, "end block must end with the sizes of 17 chunks; got 18"),
        (18, b"\x21\x01\x00" + b"\x0c" * 17, "the index must have the sizes of the chunks; got others"),
        (18, b"\x21\x01\x00" + b"\x0c" * 17 + b"\x8c", "end block must end with the sizes of 17 chunks; got 17"),
        (18, b"\x22\x01\x00" + b"\x0c" * 17, "chunk 16 (at 0.64 s) must have 2 frames; got 1"),
        (18, b"\x23\x01\x00" + b"\x0c" * 18, "chunk 16 (at 0.64 s) must have 2 frames; got 1"),
    ],
)
def test_what_lies_behind_a_checksum_that_fits_is_an_error(fuzz, index, body, message):
    with pytest.raises(BitstreamError, match=rf"^byte \d+: {re.escape(message)}"):
        read_stream(rebuilt(fuzz, index, body))


def test_a_copy_of_another_header_is_an_error(fuzz):
    parts = fuzz.split(write_live())
    copied = parts[-1].index(b"RVQC")
    wrong = fuzz.join([parts[-1][copied + 10 : copied + 10 + 60].replace(b"tiny", b"huge")], 2)[:-8]
    parts[-1] = parts[-1][:copied] + wrong + parts[-1][copied + 74 :]
    with pytest.raises(BitstreamError, match="the copy of the header must say the same as the header"):
        read_stream(fuzz.join(parts, 2))


@pytest.mark.parametrize("number", [2**20, 2**32, 2**62])
def test_numbers_that_are_only_claimed_take_no_memory(fuzz, number):
    body = varint(number) + b"\x02\x3e\x74\x01"
    with pytest.raises(BitstreamError, match="must come here; got chunk"):
        read_stream(rebuilt(fuzz, 2, body))
    chunks = list(StreamReader(BytesIO(rebuilt(fuzz, 2, body)), conceal=True).chunks())
    assert [chunk.first_frame for chunk in chunks if chunk.codes is None] == [2]
    assert sum(chunk.num_frames for chunk in chunks) == 33


def test_streams_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match="codes must have the shape"):
        Stream(GOLDEN, GOLDEN_CODES[:1])
