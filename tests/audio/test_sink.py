import errno
import os
import re
import resource
import threading

import pytest
import soundfile
import torch

from codec.audio import AudioFileError, RawFormat, open_sink, open_source, read_audio

HEADER_BYTES = 44


def written(path):
    info = soundfile.info(path)
    return info.format, info.samplerate, info.channels, info.frames


@pytest.mark.parametrize("length", [None, 1000, 1200])
def test_a_file_holds_what_was_written_whatever_was_announced(tmp_path, length):
    waveform = (torch.rand(2, 1000) * 2**15).floor() / 2**15
    (tmp_path / "a.flac").write_bytes(bytes(10_000))
    with open_sink(tmp_path / "a.flac", 22_050, 2, length=length) as sink:
        for block in waveform.split([1, 0, 499, 500], dim=1):
            sink.write(block)
    assert written(tmp_path / "a.flac") == ("WAV", 22_050, 2, 1000)
    assert torch.equal(read_audio(tmp_path / "a.flac").waveform, waveform)
    assert (tmp_path / "a.flac").stat().st_size == 4000 + (HEADER_BYTES if length else 80)


@pytest.mark.parametrize("length", [None, 1000])
def test_a_file_too_long_for_wav_becomes_rf64(tmp_path, monkeypatch, length):
    monkeypatch.setattr("codec.audio.wav.MAX_RIFF_BYTES", 1999)
    for samples, format in ((999, "WAV"), (1000, "RF64")):
        with open_sink(tmp_path / "a.wav", 16_000, 1, length=length) as sink:
            sink.write(torch.ones(1, samples) / 2)
        assert written(tmp_path / "a.wav") == (format, 16_000, 1, samples)


@pytest.mark.parametrize(("length", "size"), [(100, 200), (None, 2**32 - 1)])
def test_a_pipe_gets_a_header_and_then_every_write_at_once(length, size):
    read, write = os.pipe()
    with open_sink(write, 16_000, 1, length=length) as sink:
        header = os.read(read, 1000)
        assert len(header) == HEADER_BYTES
        assert int.from_bytes(header[40:], "little") == size
        for value in (0.25, 0.5):
            sink.write(torch.full((1, 50), value))
            assert os.read(read, 1000) == int(value * 2**15).to_bytes(2, "little") * 50
    os.close(write)  # was left open
    assert os.read(read, 1) == b""
    os.close(read)


@pytest.mark.parametrize("length", [None, 300_000])
def test_what_goes_into_a_pipe_comes_out_of_it(length):
    waveform = torch.randint(-(2**15), 2**15, (3, 300_000)) / 2**15
    read, write = os.pipe()

    def write_all():
        with open_sink(write, 48_000, 3, length=length) as sink:
            sink.write(waveform)
        os.close(write)

    thread = threading.Thread(target=write_all)
    thread.start()
    with open_source(read) as source:
        assert (source.sample_rate, source.stated_length) == (48_000, length)
        assert torch.equal(torch.cat(list(source.blocks(10_000)), dim=1), waveform)
    assert source.warning is None
    thread.join()
    os.close(read)


@pytest.mark.parametrize("encoding", ["u8", "s16", "s24", "s32", "f32"])
def test_raw_samples_have_no_header(tmp_path, encoding):
    format = RawFormat(8_000, 2, encoding)
    waveform = torch.rand(2, 100) - 0.5
    with open_sink(tmp_path / "a", 8_000, 2, raw=format) as sink:
        sink.write(waveform[:, :30])
        sink.write(waveform[:, 30:])
    assert (tmp_path / "a").read_bytes() == format.encode(waveform)


def test_a_reader_that_has_gone_is_told_apart():
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError), open_sink(write, 16_000, 1):
        pass
    os.close(write)


def test_a_file_that_cannot_grow_is_an_error_that_says_why(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = re.escape(f"{tmp_path / 'a.wav'}: not writable ({os.strerror(errno.EFBIG)})")
    with pytest.raises(AudioFileError, match=f"^{message}$"), open_sink(tmp_path / "a.wav", 16_000, 1) as sink:
        try:
            # Python ignores the signal that would end other programs here.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
            for _ in range(10):
                sink.write(torch.zeros(1, 10_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sink.written < 50_000


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's always full device")
@pytest.mark.parametrize("raw", [None, RawFormat(16_000, 1, "s16")])
def test_a_full_disk_is_an_error_at_once(raw):
    with (
        pytest.raises(AudioFileError, match=r"^/dev/full: not writable \(No space left on device\)$"),
        open_sink("/dev/full", 16_000, 1, raw=raw) as sink,
    ):
        sink.write(torch.zeros(1, 1))


def test_errors_of_the_block_are_its_own(tmp_path):
    with pytest.raises(OSError, match="other"), open_sink(tmp_path / "a.wav", 16_000, 1):
        raise OSError("other")


def write_silence(path, samples, sample_rate, channels, **options):
    with open_sink(path, sample_rate, channels, **options) as sink:
        sink.write(torch.zeros(channels, samples))


def test_what_does_not_fit_is_an_error(tmp_path):
    path = tmp_path / "a.wav"
    with pytest.raises(ValueError, match="waveform must end after 9 samples; got 10"):
        write_silence(path, 10, 16_000, 1, length=9)
    with pytest.raises(
        ValueError, match="raw format must be of 2 channels at 8000 Hz, as the audio is; got 8000:1:s16"
    ):
        write_silence(path, 10, 8_000, 2, raw=RawFormat(8_000, 1, "s16"))
    for rate, channels in ((0, 1), (16_000, 0), (16_000, 1025), (2**31, 2)):
        with pytest.raises(AudioFileError, match=rf"a\.wav: not writable \(no {channels} channels at {rate} Hz\)$"):
            write_silence(path, 10, rate, channels)
    with pytest.raises(AudioFileError, match=r"^descriptor 999: Bad file descriptor$"):
        write_silence(999, 10, 16_000, 1)
