import os
import re
import threading
from dataclasses import replace
from io import BytesIO
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import Header, Packed, StreamReader, StreamWriter, read_header, read_stream, write_stream
from codec.bitstream.stream import Stream
from codec.bitstream.tags import is_safe

HEADER = Header("tiny", "0123456789abcdef", 16_000, 1, None, 2, 10, None, 4, 16_000, 320)
CODES = np.random.default_rng(0).integers(0, 1024, (1, 2, 11))


def write(file, header, *parts, length=3500):
    writer = StreamWriter(file, header)
    for part in parts:
        writer.write(part)
    writer.close(length)
    return writer


@st.composite
def written(draw):
    """Any stream, and where its codes are cut for writing."""
    header = Header(
        model=draw(st.text(min_size=1, max_size=60).filter(lambda text: is_safe(text, 255))),
        fingerprint=draw(st.binary(min_size=8, max_size=8)).hex(),
        sample_rate=draw(st.integers(1, 1_000_000)),
        channels=draw(st.integers(1, 3)),
        length=draw(st.none() | st.integers(1, 2**63 - 1)),
        num_quantizers=draw(st.integers(1, 12)),
        bits=draw(st.integers(1, 32)),
        num_frames=None,
        frames_per_chunk=draw(st.integers(1, 50)),
        model_rate=draw(st.none() | st.integers(1, 1_000_000)),
        hop_length=draw(st.none() | st.integers(1, 2**32 - 1)),
        tags=draw(st.dictionaries(st.sampled_from(["a", "é"]), st.text("xyzé ♪", max_size=9))),
    )
    num_frames = draw(st.integers(1, 60))
    if draw(st.booleans()):
        header = replace(header, num_frames=num_frames)
    shape = (header.channels, header.num_quantizers, num_frames)
    codes = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, 1 << header.bits, shape)
    return header, codes, sorted(draw(st.lists(st.integers(0, num_frames), max_size=5)))


@settings(deadline=None)
@given(case=written())
def test_every_stream_comes_back_however_it_is_written(case, fuzz):
    header, codes, cuts = case
    length = header.length or 77
    whole = replace(header, length=length, num_frames=codes.shape[2])
    file, pipe = BytesIO(), fuzz.Sink()
    for end in (file, pipe):
        write(end, header, *np.split(codes, cuts, axis=2), length=length)
    assert file.getvalue() == write_stream(Stream(whole, codes))
    assert read_header(file.getvalue()) == whole
    assert read_header(pipe.getvalue()) == header
    for data in (file.getvalue(), pipe.getvalue()):
        again = read_stream(data)
        assert again.header == whole
        assert np.array_equal(again.codes, codes)


def test_each_chunk_goes_through_a_pipe_as_soon_as_it_is_whole():
    source, sink = os.pipe()
    chunks, at_each = [], []
    with os.fdopen(source, "rb") as file, os.fdopen(sink, "wb") as end:
        writer = StreamWriter(end, HEADER)
        reader = StreamReader(file)  # the header is there, or this would block
        assert reader.header == HEADER
        stream = reader.chunks()
        for frame in range(8):
            writer.write(CODES[:, :, frame : frame + 1])
            if frame % 4 == 3:
                chunks.append(next(stream).codes)
                at_each.append(frame)
        writer.write(CODES[:, :, 8:])
        finish = threading.Thread(target=lambda: (writer.close(3500), end.close()))
        finish.start()
        chunks += [chunk.codes for chunk in stream]
        finish.join()
    assert np.array_equal(np.concatenate(chunks, axis=2), CODES)
    assert (reader.length, reader.num_frames) == (3500, 11)
    assert at_each == [3, 7]


def test_the_header_is_completed_where_the_stream_begins():
    file = BytesIO()
    file.write(b"before")
    writer = write(file, HEADER, CODES)
    assert file.tell() == len(file.getvalue()) == 6 + writer.num_bytes
    assert read_header(file.getvalue()[6:]) == replace(HEADER, length=3500, num_frames=11)
    assert file.getvalue()[:6] == b"before"
    assert writer.num_frames == 11


def test_a_file_opened_for_appending_is_left_as_it_is(tmp_path):
    path = tmp_path / "appended"
    with path.open("ab") as file:
        write(file, HEADER, CODES)
    assert read_header(path.read_bytes()) == HEADER
    assert np.array_equal(read_stream(path.read_bytes()).codes, CODES)


def test_a_file_that_takes_few_bytes_at_a_time_gets_them_all():
    class Slow(BytesIO):
        def write(self, data):
            return super().write(data[:5])

    for seekable in (False, True):
        file = Slow()
        file.seekable = lambda seekable=seekable: seekable
        writer = write(file, HEADER, CODES)
        assert np.array_equal(read_stream(file.getvalue()).codes, CODES)
        assert len(file.getvalue()) == writer.num_bytes


def test_no_chunk_is_longer_than_packed(fuzz):
    tables = fuzz.tiny_tables()
    likely = np.argsort(tables.ranks)[:, :1][None]
    codes = np.concatenate(
        [np.repeat(likely, 40, axis=2), np.random.default_rng(1).integers(0, 32, (1, 3, 40))], axis=2
    )
    header = replace(HEADER, num_quantizers=3, bits=5, frames_per_chunk=40, length=1, num_frames=80)
    data = write_stream(Stream(replace(header, entropy=tables.fingerprint), codes), tables)
    kinds = [part[:2] for part in fuzz.split(data)[1:]]
    assert kinds == [b"\xd7C", b"\xd7P", b"\xd7E"]
    assert len(data) < len(write_stream(Stream(header, codes)))
    assert np.array_equal(read_stream(data, tables).codes, codes)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (CODES[0], "codes must have the shape (1, 2, frames); got (2, 11)"),
        (CODES[:, :1], "codes must have the shape (1, 2, frames); got (1, 1, 11)"),
        (CODES / 2, "codes must be integers; got float64"),
        (CODES + 1024, "values of 10 bits must be 0 to 1023; got "),
        (np.concatenate([CODES, CODES], axis=2), "there must be 11 frames; got more"),
    ],
)
def test_codes_that_the_header_does_not_promise_are_an_error(codes, message):
    writer = StreamWriter(BytesIO(), replace(HEADER, num_frames=11))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        writer.write(codes)


@pytest.mark.parametrize(
    ("changes", "frames", "length", "message"),
    [
        ({"length": 3500}, 11, 3499, "length must be 3500 as the header says; got 3499"),
        ({"num_frames": 11}, 10, 3500, "num_frames must be 11 as the header says; got 10"),
        ({}, 0, 3500, "num_frames must be 1 to 9223372036854775807; got 0"),
        ({}, 11, 0, "length must be 1 to 9223372036854775807; got 0"),
    ],
)
def test_a_stream_ends_as_its_header_promises(changes, frames, length, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        write(BytesIO(), replace(HEADER, **changes), CODES[:, :, :frames], length=length)


def test_nothing_is_added_to_a_closed_stream():
    writer = write(BytesIO(), HEADER, CODES)
    for call in (lambda: writer.write(CODES), lambda: writer.close(3500)):
        with pytest.raises(RuntimeError, match=r"^the stream is closed: nothing can be added$"):
            call()


def test_another_coder_than_that_of_the_header_is_an_error():
    with pytest.raises(ValueError, match=r"^coder must be the one of the header, 0123456789abcdef; got None$"):
        StreamWriter(BytesIO(), replace(HEADER, entropy="0123456789abcdef"), Packed(10))


def test_a_chunk_is_written_and_read_within_a_millisecond():
    # On one core 100 frames of 12 stages take 0.03 ms to write and 0.1 ms to read.
    header = replace(HEADER, num_quantizers=12, frames_per_chunk=100)
    codes = np.random.default_rng(0).integers(0, 1024, (1, 12, 10_000))
    file, start = BytesIO(), process_time()
    write(file, header, codes)
    file.seek(0)
    assert sum(chunk.num_frames for chunk in StreamReader(file).chunks()) == 10_000
    assert process_time() - start < 100 * 1e-3
