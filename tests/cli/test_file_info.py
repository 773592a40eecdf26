import io
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from codec import Codec
from codec.bitstream import Header, StreamWriter, learn_tables
from codec.cli.errors import CommandError
from codec.cli.file_info import read_file_info

HEADER = Header(
    model="some_model",
    fingerprint="0123456789abcdef",
    sample_rate=44_100,
    channels=2,
    length=None,
    num_quantizers=3,
    bits=4,
    num_frames=None,
    frames_per_chunk=100,
    model_rate=16_000,
    hop_length=320,
    tags={"title": "[bold]A talk[/bold]"},
)
FRAMES = 250


@pytest.fixture
def codes():
    """Stages of 4, 2 and 0 bits of entropy, each number as often as the others."""
    first = np.arange(2 * FRAMES).reshape(2, FRAMES) % 16
    return np.stack([first, first % 4, np.full_like(first, 7)], axis=1)


@pytest.fixture
def write(tmp_path, codes):
    """Write a file of codes: `write(header, coder)`."""

    def write(header, coder=None):
        file = io.BytesIO()
        writer = StreamWriter(file, header, coder)
        writer.write(codes)
        writer.close(length=220_500)
        (tmp_path / "a.rvq").write_bytes(file.getvalue())
        return tmp_path / "a.rvq"

    return write


def test_everything_that_a_file_holds_is_told(write):
    path = write(HEADER)
    size = path.stat().st_size
    info = read_file_info(path)
    assert (info.model, info.fingerprint, info.version) == ("some_model", "0123456789abcdef", 2)
    assert (info.sample_rate, info.channels, info.length, info.duration) == (44_100, 2, 220_500, 5.0)
    assert (info.num_quantizers, info.bits, info.entropy) == (3, 4, None)
    assert (info.frame_rate, info.num_frames, info.num_chunks) == (50, FRAMES, 3)
    assert (info.size, info.packed_bitrate, info.bitrate, info.bits_per_code) == (size, 1200, 8 * size / 5, 4)
    assert info.tags == {"title": "[bold]A talk[/bold]"}
    assert (info.latency, info.problems) == (None, [])
    assert info.rows() == {
        "file": str(path),
        "format version": "2",
        "model": "some_model (0123456789abcdef)",
        "model rate": "16000 Hz",
        "latency": "not known: the model is not on this machine",
        "sample rate": "44100 Hz",
        "channels": "2",
        "length": "220500 samples",
        "duration": "5.000 s",
        "tag title": "[bold]A talk[/bold]",
        "stages": "3",
        "codes": "4 bits, packed",
        "frames": "250",
        "frame rate": "50 frames/s",
        "chunks": "3 of 100 frames",
        "size": f"{size} bytes",
        "bitrate packed": "1200 bit/s",
        "bitrate on disk": f"{1.6 * size:.0f} bit/s",
        "bits per code": "4.000",
        "entropy by stage": "4.00 2.00 0.00",
        "compression": f"{882_000 / size:.1f} times smaller than 16-bit PCM",
    }


def test_what_a_terminal_obeys_is_not_shown(write, tmp_path):
    path = write(HEADER).rename(tmp_path / "a\n\x1b[31mb.rvq")
    assert read_file_info(path).rows()["file"] == f"{tmp_path}/a??[31mb.rvq"


def test_the_entropy_of_stages_is_that_of_their_counts(write, codes):
    entropies = read_file_info(write(HEADER)).stage_entropies
    for stage, entropy in enumerate(entropies):
        counts = np.unique(codes[:, stage], return_counts=True)[1]
        assert math.isclose(entropy, -sum(n / 500 * math.log2(n / 500) for n in counts), abs_tol=1e-12)


def test_the_shipped_model_tells_its_latency(write):
    codec = Codec.from_pretrained("speech_16khz")
    shipped = replace(HEADER, model="speech_16khz", fingerprint=codec.fingerprint())
    assert read_file_info(write(shipped)).latency == 1000 * codec.latency
    # Of the same name, but another rate or other weights: not that model.
    assert read_file_info(write(replace(shipped, hop_length=640))).latency is None
    assert read_file_info(write(replace(shipped, fingerprint=HEADER.fingerprint))).latency is None
    assert read_file_info(write(replace(HEADER, model="../pretrained/speech_16khz"))).latency is None


def test_codes_that_are_entropy_coded_are_read_with_the_tables_of_the_model(write, codes, tmp_path):
    tables = learn_tables(list(codes), 16)
    path = write(replace(HEADER, entropy=tables.fingerprint), tables)
    info = read_file_info(path)
    assert (info.stage_entropies, info.entropy, info.num_frames) == (None, tables.fingerprint, FRAMES)
    assert info.bits_per_code < 4
    assert info.rows()["entropy by stage"].startswith("not known")

    model = tmp_path / "model"
    model.mkdir()
    save_file(tables.to_arrays(), model / "entropy.safetensors")
    assert np.allclose(read_file_info(path, model).stage_entropies, [4, 2, 0], atol=1e-3)
    save_file(learn_tables([codes[0, :, :10]], 16).to_arrays(), model / "entropy.safetensors")
    assert read_file_info(path, model).stage_entropies is None, "other tables"
    (model / "entropy.safetensors").write_bytes(b"no tables")
    assert read_file_info(path, model).stage_entropies is None


def test_counts_for_which_there_is_no_memory_are_left_out(write):
    assert read_file_info(write(replace(HEADER, bits=32))).stage_entropies is None


def test_damage_is_told_with_what_is_left(write):
    path = write(HEADER)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    info = read_file_info(path)
    assert (info.num_chunks, info.stage_entropies) == (2, None)
    assert len(info.problems) == 1


def test_what_is_no_file_of_codes_is_an_error(tmp_path):
    (tmp_path / "a.rvq").write_text("no codes")
    with pytest.raises(CommandError, match="byte 0: not a file of codes"):
        read_file_info(tmp_path / "a.rvq")
