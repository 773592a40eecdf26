import os
import re
import struct

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import AudioFileError, read_audio, read_info, write_audio


@pytest.mark.parametrize(("format", "tolerance"), [("WAV", 2**-15), ("FLAC", 2**-15), ("OGG", 0.05)])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_reads_any_format_and_channel_count(tmp_path, format, tolerance, channels):
    time = np.arange(4410) / 44_100
    samples = 0.3 * np.stack([np.sin(2 * np.pi * 220 * (channel + 1) * time) for channel in range(channels)], axis=1)
    path = tmp_path / "some.audio"
    soundfile.write(path, samples, 44_100, format=format)

    waveform, sample_rate = read_audio(path)

    assert sample_rate == 44_100
    assert waveform.dtype == torch.float32
    assert waveform.shape == (channels, 4410)
    assert waveform.is_contiguous()
    torch.testing.assert_close(waveform, torch.from_numpy(samples.T).float(), atol=tolerance, rtol=0)


def test_files_longer_than_a_block_are_read_whole(tmp_path):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 600_000).astype(np.int16)
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    assert torch.equal(read_audio(tmp_path / "long.wav").waveform[0], torch.from_numpy(samples / 2**15).float())


def test_every_16_bit_sample_comes_back_exactly(tmp_path):
    waveform = torch.arange(-(2**15), 2**15).float()[None] / 2**15
    write_audio(tmp_path / "all.wav", waveform, 16_000)
    assert torch.equal(read_audio(tmp_path / "all.wav").waveform, waveform)


def test_samples_are_rounded_and_clipped_without_wrapping_around(tmp_path):
    step = 2**-15
    waveform = torch.tensor([[0.4 * step, 0.6 * step, -0.6 * step, 1.0, 1.0 - 0.4 * step, 1.5, -1.0, -1.5, 1e9, -1e9]])
    write_audio(tmp_path / "clipped.wav", waveform, 16_000)
    written, _ = soundfile.read(tmp_path / "clipped.wav", dtype="int16")
    assert written.tolist() == [0, 1, -1, 32767, 32767, 32767, -32768, -32768, 32767, -32768]


def test_writes_16_bit_wav_whatever_the_extension(tmp_path):
    write_audio(tmp_path / "name.flac", torch.zeros(3, 100), 22_050)
    info = soundfile.info(tmp_path / "name.flac")
    assert (info.format, info.subtype, info.channels, info.samplerate, info.frames) == ("WAV", "PCM_16", 3, 22_050, 100)


def test_writing_replaces_a_longer_file(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, torch.zeros(1, 1000), 16_000)
    write_audio(path, torch.ones(1, 10) / 2, 16_000)
    assert path.stat().st_size == 44 + 2 * 10
    assert torch.equal(read_audio(path).waveform, torch.ones(1, 10) / 2)


def test_no_audio_is_an_error_of_one_line_that_names_the_file(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("This is no audio.\n" * 100)
    (tmp_path / "text.raw").write_text("This is no audio.\n" * 100)
    soundfile.write(tmp_path / "silent.wav", np.zeros((0, 2)), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "infinite.wav", np.array([0.0, -np.inf]), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", np.zeros(10), 999)
    for name, message in {
        "missing.wav": "No such file or directory",
        "": "Is a directory",
        "empty.wav": "is an empty file",
        "text.wav": "not readable as audio (Format not recognised)",
        "text.raw": "not readable as audio (Format not recognised)",
        "silent.wav": "holds no samples",
        "nan.wav": "holds NaN or infinite samples",
        "infinite.wav": "holds NaN or infinite samples",
        "slow.wav": "sample rate must be 1000 to 1000000 Hz; got 999",
    }.items():
        with pytest.raises(AudioFileError, match=rf"^{re.escape(f'{tmp_path / name}: {message}')}$"):
            read_audio(tmp_path / name)


def test_a_truncated_flac_is_an_error(tmp_path):
    samples = np.random.default_rng(0).normal(scale=0.1, size=50_000)
    soundfile.write(tmp_path / "whole.flac", samples, 16_000)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioFileError, match=r"half.flac: not readable as audio \(.+\)$"):
        read_audio(tmp_path / "half.flac")


def test_a_header_tells_rate_channels_and_length(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros((11_025, 2)), 44_100)
    info = read_info(tmp_path / "a.flac")
    assert (info.sample_rate, info.channels, info.length, info.seconds) == (44_100, 2, 11_025, 0.25)


def test_a_header_is_read_whatever_follows_it(clips, tmp_path):
    whole = clips[0].read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    assert read_info(tmp_path / "half.flac") == read_info(clips[0])


def test_a_header_that_tells_of_no_audio_is_an_error(clips, tmp_path):
    (tmp_path / "text.flac").write_text("This is no audio.\n" * 100)
    soundfile.write(tmp_path / "silent.wav", np.zeros((0, 2)), 16_000)
    soundfile.write(tmp_path / "fast.wav", np.zeros(10), 1_000_001)
    endless = bytearray(clips[0].read_bytes())
    # The 36 bits of STREAMINFO that hold the number of samples: a stream of unknown length has 0.
    endless[21] &= 0xF0
    endless[22:26] = bytes(4)
    (tmp_path / "endless.flac").write_bytes(endless)
    for name, message in {
        "missing.wav": "No such file or directory",
        "text.flac": "not readable as audio",
        "silent.wav": "holds no samples",
        "fast.wav": "sample rate must be 1000 to 1000000 Hz; got 1000001",
        "endless.flac": "does not say how long it is",
    }.items():
        with pytest.raises(AudioFileError, match=rf"^{re.escape(f'{tmp_path / name}: {message}')}"):
            read_info(tmp_path / name)


def test_a_length_that_a_header_only_claims_takes_no_memory(tmp_path):
    write_audio(tmp_path / "a.wav", torch.zeros(1, 100), 16_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 2**32 - 2)
    (tmp_path / "claims.wav").write_bytes(data)
    assert read_audio(tmp_path / "claims.wav").waveform.shape == (1, 100)


def test_what_cannot_be_written_is_an_error(tmp_path):
    waveform = torch.zeros(1, 100)
    with pytest.raises(AudioFileError, match=r"a\.wav: No such file or directory$"):
        write_audio(tmp_path / "missing" / "a.wav", waveform, 16_000)
    with pytest.raises(AudioFileError, match=r"Is a directory$"):
        write_audio(tmp_path, waveform, 16_000)
    with pytest.raises(AudioFileError, match=r"a\.wav: not writable \(.+\)$"):
        write_audio(tmp_path / "a.wav", waveform, 0)
    with pytest.raises(ValueError, match=r"waveform must be \[channels, time\]; got shape \(100,\)"):
        write_audio(tmp_path / "a.wav", waveform[0], 16_000)
    with pytest.raises(ValueError, match="waveform must be finite; got NaN or infinite samples"):
        write_audio(tmp_path / "a.wav", waveform + torch.nan, 16_000)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's always full device")
def test_a_full_disk_is_an_error():
    with pytest.raises(AudioFileError, match=r"/dev/full: not writable \(.+\)$"):
        write_audio("/dev/full", torch.zeros(1, 100_000), 16_000)


def test_audio_longer_than_a_wav_file_can_be_becomes_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr("codec.audio.wav.MAX_RIFF_BYTES", 399)
    waveform = torch.ones(2, 100) / 2
    write_audio(tmp_path / "a.wav", waveform, 16_000)
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"
    assert torch.equal(read_audio(tmp_path / "a.wav").waveform, waveform)


def test_what_is_no_audio_leaves_a_file_as_it_was(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"before")
    with pytest.raises(ValueError, match="must be finite"):
        write_audio(tmp_path / "a.wav", torch.full((1, 1), torch.nan), 16_000)
    assert (tmp_path / "a.wav").read_bytes() == b"before"
