import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import AudioFileError, RawFormat, open_source

FORMATS = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_24"),
    ("WAVEX", "FLOAT"),
    ("RF64", "PCM_16"),
    ("RF64", "ALAW"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
# In WAV, read from a pipe as they arrive.
LIVE = {"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"}


def audio_bytes(format="WAV", subtype="PCM_16", *, sample_rate=16_000, channels=2, length=5000, tags=()):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sample_rate, channels, subtype, format=format) as sound:
        for key, value in tags:
            setattr(sound, key, value)
        sound.write(np.random.default_rng(0).uniform(-0.9, 0.9, (length, channels)))
    return file.getvalue()


def with_sizes(data, *, riff=None, audio=None):
    data = bytearray(data)
    if riff is not None:
        struct.pack_into("<I", data, 4, riff)
    struct.pack_into("<I", data, data.index(b"data") + 4, audio)
    return bytes(data)


@contextmanager
def piped(data, piece=1 << 16):
    """A descriptor of a pipe that another thread writes `data` into, `piece` bytes at a time."""
    read, write = os.pipe()

    def feed():
        with suppress(BrokenPipeError), os.fdopen(write, "wb", buffering=0) as file:
            for place in range(0, len(data), piece):
                file.write(data[place : place + piece])

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield read
    finally:
        os.close(read)
        thread.join()


@contextmanager
def given(way, data, folder, piece=1 << 16):
    """What `open_source` takes, of `data` in a file without extension or coming through a pipe."""
    if way == "pipe":
        with piped(data, piece) as descriptor:
            yield descriptor
    else:
        (folder / "audio").write_bytes(data)
        yield folder / "audio"


def read_all(source, length=1000):
    blocks = list(source.blocks(length))
    assert all(1 <= block.shape[1] <= length and block.is_contiguous() for block in blocks)
    return torch.cat(blocks, dim=1)


def decoded(data):
    """What libsndfile reads, at once."""
    samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T), sample_rate


both_ways = pytest.mark.parametrize("way", ["file", "pipe"])


@both_ways
@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_every_format_gives_the_samples_that_libsndfile_reads(tmp_path, way, format, subtype):
    data = audio_bytes(format, subtype)
    with given(way, data, tmp_path) as path, open_source(path) as source:
        waveform = read_all(source)
    expected, sample_rate = decoded(data)
    assert waveform.dtype == torch.float32
    # MP3: the decoder rounds another way after `soundfile.read` has sought the beginning.
    torch.testing.assert_close(waveform, expected, atol=1e-6 if format == "MP3" else 0, rtol=0)
    assert (source.sample_rate, source.channels) == (sample_rate, 2)
    assert source.stated_length == waveform.shape[1]
    assert source.live == (way == "pipe" and format in {"WAV", "WAVEX", "RF64"} and subtype in LIVE)
    assert source.warning is None


@both_ways
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize(
    ("sample_rate", "channels"),
    [(8_000, 1), (11_025, 2), (22_050, 3), (44_100, 4), (48_000, 5), (96_000, 6), (176_400, 7), (192_000, 8)],
)
def test_rates_and_channels_are_kept(tmp_path, way, format, sample_rate, channels):
    data = audio_bytes(format, None, sample_rate=sample_rate, channels=channels, length=1001)
    with given(way, data, tmp_path) as path, open_source(path) as source:
        assert (source.sample_rate, source.channels, source.stated_length) == (sample_rate, channels, 1001)
        assert torch.equal(read_all(source), decoded(data)[0])


@both_ways
@pytest.mark.parametrize("riff", [None, 0xFFFFFFFF])
@pytest.mark.parametrize("audio", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFF00, 0x7FFFFFFF])
def test_a_wav_header_that_does_not_know_its_length_is_read_to_the_end(tmp_path, way, riff, audio):
    data = audio_bytes()
    with given(way, with_sizes(data, riff=riff, audio=audio), tmp_path) as path, open_source(path) as source:
        assert source.stated_length == (None if way == "pipe" else 5000)
        assert torch.equal(read_all(source), decoded(data)[0])
    assert source.warning is None


@both_ways
@pytest.mark.parametrize(
    ("format", "subtype"),
    [("WAV", "PCM_16"), ("WAVEX", "FLOAT"), ("RF64", "PCM_24"), ("AIFF", "PCM_16"), ("AU", "PCM_16")],
)
def test_a_file_cut_short_gives_what_is_there_and_warns(tmp_path, way, format, subtype):
    whole = audio_bytes(format, subtype, channels=1, length=32_000)
    data = whole[: len(whole) // 2]
    with given(way, data, tmp_path) as path, open_source(path) as source:
        waveform = read_all(source)
    assert torch.equal(waveform, decoded(whole)[0][:, : waveform.shape[1]])
    assert 15_900 < waveform.shape[1] < 16_100
    assert source.warning == f"header promises 2.00 s, {waveform.shape[1] / 16_000:.2f} s are there"


@both_ways
def test_an_mp3_cut_short_warns(tmp_path, way):
    whole = audio_bytes("MP3", None, channels=1, length=32_000)
    with given(way, whole[: len(whole) // 2], tmp_path) as path, open_source(path) as source:
        read_all(source)
    assert source.warning.startswith("header promises 2.00 s, ")


@both_ways
def test_a_truncated_flac_is_an_error_after_what_can_be_read(clips, tmp_path, way):
    data = clips[0].read_bytes()
    blocks = []
    with (
        given(way, data[: len(data) // 2], tmp_path) as path,
        pytest.raises(AudioFileError, match=r": not readable as audio \(.+\)$"),
        open_source(path) as source,
    ):
        blocks.extend(source.blocks(1000))
    assert sum(block.shape[1] for block in blocks) > 10_000


@pytest.mark.parametrize("trailer", [b"", struct.pack("<4sI", b"LIST", 200_000) + bytes(200_000)])
def test_what_follows_the_samples_in_a_pipe_is_no_audio(trailer):
    data = audio_bytes()
    with piped(data + trailer) as descriptor, open_source(descriptor) as source:
        assert torch.equal(read_all(source), decoded(data)[0])
        assert os.read(descriptor, 1) == b""  # nothing is left that the writer could not get rid of


@both_ways
@pytest.mark.parametrize("encoding", ["u8", "s16", "s24", "s32", "f32"])
def test_raw_samples_are_read_in_pieces_of_any_size(tmp_path, way, encoding):
    format = RawFormat(8_000, 3, encoding)
    data = format.encode(torch.rand(3, 1000) - 0.5)
    with given(way, data + b"\1", tmp_path, piece=7) as path, open_source(path, raw=format) as source:
        assert torch.equal(read_all(source, 100), format.decode(data))
    assert (source.sample_rate, source.channels, source.live) == (8_000, 3, way == "pipe")
    assert source.stated_length == (None if way == "pipe" else 1000)
    assert source.warning is None


@pytest.mark.parametrize("raw", [None, RawFormat(16_000, 1, "s16")])
def test_a_pipe_gives_what_has_arrived_without_waiting_for_more(raw):
    read, write = os.pipe()
    if raw is None:
        header = audio_bytes(channels=1, length=0)
        os.write(write, with_sizes(header, audio=0xFFFFFFFF))
    os.write(write, struct.pack("<3hb", 1, 2, 3, 4))
    with open_source(read, raw) as source:
        blocks = source.blocks(10_000)
        assert (next(blocks) * 2**15).tolist() == [[1, 2, 3]]
        os.write(write, b"\0" + struct.pack("<h", 5))
        assert (next(blocks) * 2**15).tolist() == [[4, 5]]
        os.close(write)
        assert next(blocks, None) is None
    os.close(read)


@both_ways
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
def test_tags_are_those_that_the_file_has(tmp_path, way, format):
    tags = {"title": "Ein Lied – ♪", "artist": "Jemand", "date": "1999", "comment": "  "}
    data = audio_bytes(format, None, tags=tags.items())
    if format == "WAV":  # libsndfile writes tags behind the samples, where a pipe brings them too late: put them before
        place = data.index(b"data")
        end = place + 8 + 4 * 5000
        data = data[:place] + data[end:] + data[place:end]
    with given(way, data, tmp_path) as path, open_source(path) as source:
        expected = {key: tags[key] for key in ("title", "artist", "date")}
        assert source.tags == expected
    with given(way, audio_bytes(format, None), tmp_path) as path, open_source(path) as source:
        assert source.tags == {}


def test_quiet_and_clipped_samples_pass_as_they_are(tmp_path):
    samples = np.array([0.0, 1e-30, -(2.0**-15), 1.0, 7.5, -100.0], dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with open_source(tmp_path / "a.wav") as source:
        assert torch.equal(read_all(source)[0], torch.from_numpy(samples))


def test_a_block_is_all_that_is_in_memory(tmp_path):
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(with_sizes(audio_bytes(length=0), audio=100 << 20))
        file.truncate(44 + (100 << 20))
    for raw in (None, RawFormat(16_000, 2, "s16")):
        tracemalloc.start()
        with open_source(tmp_path / "long.wav", raw) as source:
            assert sum(block.shape[1] for block in source.blocks(1 << 16)) >= 25 << 20
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_more_than_4_gib_behind_an_open_header_are_all_there(tmp_path):
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(with_sizes(audio_bytes(length=0), audio=0xFFFFFFFF))
        file.truncate(44 + (5 << 30))
    with open_source(tmp_path / "long.wav") as source:
        assert source.stated_length == 5 << 28
        assert source.read(1000).shape == (2, 1000)


@both_ways
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"This is no audio.\n" * 100, r"not readable as audio \(Format not recognised\)"),
        (audio_bytes()[:30], r"not readable as audio \(.+\)"),
        (audio_bytes(length=0), "holds no samples"),
        (audio_bytes(sample_rate=999), "sample rate must be 1000 to 1000000 Hz; got 999"),
        (audio_bytes(subtype="FLOAT")[:-4] + struct.pack("<f", np.nan), "holds NaN or infinite samples"),
        (audio_bytes(subtype="FLOAT")[:-4] + struct.pack("<f", np.inf), "holds NaN or infinite samples"),
    ],
)
def test_no_audio_is_an_error_that_names_the_input(tmp_path, way, data, message):
    name = tmp_path / "audio" if way == "file" else r"descriptor \d+"
    with given(way, data, tmp_path) as path, pytest.raises(AudioFileError, match=rf"^{name}: {message}$"):
        open_and_read(path)


def open_and_read(path, raw=None):
    with open_source(path, raw) as source:
        return read_all(source)


def test_an_input_without_audio_is_an_error(tmp_path):
    (tmp_path / "empty").touch()
    for path, message in {
        tmp_path / "missing": r"missing: No such file or directory$",
        tmp_path: r"Is a directory$",
        tmp_path / "empty": r"empty: is an empty file$",
        999: r"^descriptor 999: Bad file descriptor$",
    }.items():
        with pytest.raises(AudioFileError, match=message):
            open_and_read(path)
    with piped(b"") as descriptor, pytest.raises(AudioFileError, match=r"^descriptor \d+: gave no data$"):
        open_and_read(descriptor)
    with pytest.raises(AudioFileError, match=r"empty: holds no samples$"):
        open_and_read(tmp_path / "empty", RawFormat(16_000, 1, "s16"))


def test_a_pipe_that_does_not_block_has_not_ended():
    read, write = os.pipe()
    os.set_blocking(read, False)
    with pytest.raises(AudioFileError, match=r"^descriptor \d+: Resource temporarily unavailable$"):
        open_and_read(read, RawFormat(16_000, 1, "s16"))
    os.close(read)
    os.close(write)


def test_errors_of_the_block_are_its_own(clips):
    with pytest.raises(OSError, match="other"), open_source(clips[0]):
        raise OSError("other")


def test_standard_input_and_named_pipes_are_read(clips, tmp_path):
    program = (
        "import sys; from codec.audio import open_source\n"
        "for path in (0, sys.argv[1]):\n"
        "    with open_source(path) as source:\n"
        "        print(source.name, source.live, source.sample_rate, sum(b.shape[1] for b in source.blocks(999)))\n"
    )
    os.mkfifo(tmp_path / "fifo")
    script = 'cat "$2" > "$1" & cat "$2" | "$3" -c "$4" "$1"; kill $! 2>/dev/null'
    command = ["sh", "-c", script, "sh", tmp_path / "fifo", clips[0], sys.executable, program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    length = soundfile.info(clips[0]).frames
    assert result.stdout.splitlines() == [
        f"standard input False 16000 {length}",
        f"{tmp_path / 'fifo'} False 16000 {length}",
    ], result.stderr


def test_a_file_without_samples_is_told_from_one_whose_header_was_never_finished(tmp_path):
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    tags = b"LIST" + struct.pack("<I", 17) + b"INFOICMT" + struct.pack("<I", 5) + b"none!" + b"\0"
    for name, rest in (("tags", tags), ("samples", bytes(range(200, 230)))):
        body = b"WAVE" + fmt + struct.pack("<4sI", b"data", 0) + rest
        (tmp_path / name).write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with open_source(tmp_path / "tags") as source, pytest.raises(AudioFileError, match="holds no samples"):
        list(source.blocks(1000))
    with open_source(tmp_path / "samples") as source:
        assert sum(block.shape[1] for block in source.blocks(1000)) == 15
