import os
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from codec import Codec
from codec.audio import read_audio, resample, write_audio
from codec.bitstream import Stream, read_stream, write_stream
from codec.cli.decode import decode_stream

ENCODE_AND_DECODE = """
import sys
from codec.cli.main import app
clip, folder, model = sys.argv[1:]
app(["encode", clip, "-o", f"{folder}/a.rvq", "--model", model], standalone_mode=False)
app(["decode", f"{folder}/a.rvq", "--model", model], standalone_mode=False)
sys.exit("torchaudio was imported" if "torchaudio" in sys.modules else 0)
"""


def signal_to_noise(reference, estimate):
    """In dB."""
    return 10 * torch.log10(reference.square().sum() / (reference - estimate).square().sum()).item()


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100])
def test_the_real_command_encodes_and_decodes_speech(tmp_path, speech, model_folder, run_process, sample_rate):
    """Two channels with different speech; even a model that never learned anything follows each one's waveform."""
    original = resample(0.9 * speech[0].reshape(2, -1), 16_000, sample_rate)
    write_audio(tmp_path / "original.wav", original, sample_rate)
    encoded = run_process("encode", tmp_path / "original.wav", "-o", tmp_path / "a.rvq", "--model", model_folder)
    decoded = run_process("decode", tmp_path / "a.rvq", "--model", model_folder)
    assert encoded == decoded == (0, "", "")

    info = soundfile.info(tmp_path / "a.wav")
    assert (info.format, info.subtype) == ("WAV", "PCM_16")
    waveform, decoded_rate = read_audio(tmp_path / "a.wav")
    assert decoded_rate == sample_rate
    assert waveform.shape == original.shape
    for channel in range(2):
        assert signal_to_noise(original[channel], waveform[channel]) > 2
    assert sorted(os.listdir(tmp_path)) == ["a.rvq", "a.wav", "original.wav"]


@pytest.mark.parametrize("length", [1, 319, 320, 321, 12_345])
@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 16_000, 48_000, 192_000])
def test_the_length_comes_back_exactly(tmp_path, model_folder, run, length, sample_rate):
    write_audio(tmp_path / "a.wav", 0.1 * torch.randn(1, length), sample_rate)
    assert run("encode", tmp_path / "a.wav", "--model", model_folder, "--bitrate", 300).exit_code == 0
    result = run("decode", tmp_path / "a.rvq", "-o", tmp_path / "b.wav", "--model", model_folder)
    assert result.exit_code == 0, result.output
    info = soundfile.info(tmp_path / "b.wav")
    assert (info.frames, info.samplerate, info.channels) == (length, sample_rate, 1)


def test_the_original_is_not_overwritten_unless_told(speech_file, model_folder, run):
    before = speech_file.read_bytes()
    assert run("encode", speech_file, "--model", model_folder).exit_code == 0
    result = run("decode", speech_file.with_suffix(".rvq"), "--model", model_folder)
    assert result.exit_code == 1
    assert result.stderr == f"error: {speech_file}: exists already; pass --overwrite to replace it\n"
    assert speech_file.read_bytes() == before
    assert run("decode", speech_file.with_suffix(".rvq"), "--model", model_folder, "--overwrite").exit_code == 0
    assert speech_file.read_bytes() != before


def fails(result, message):
    return (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {message}\n")


def test_bad_paths_are_one_line_on_stderr_and_leave_nothing(code_file, model_folder, run, monkeypatch):
    monkeypatch.chdir(code_file.parent)
    for arguments, message in [
        (["missing.rvq"], "missing.rvq: No such file or directory"),
        (["."], ".: Is a directory"),
        (["speech.rvq", "-o", "missing/a.wav"], "missing/a.wav: there is no folder missing"),
        (["speech.rvq", "-o", "speech.rvq", "--overwrite"], "speech.rvq: output must be another file than the input"),
    ]:
        assert fails(run("decode", "--model", model_folder, *arguments), message)
        assert os.listdir() == ["speech.rvq"]


@pytest.mark.parametrize("size", [0, 3, 10, 50, 100, -1])
def test_a_truncated_file_is_one_line_on_stderr_and_leaves_nothing(code_file, model_folder, run, size):
    code_file.write_bytes(code_file.read_bytes()[:size])
    result = run("decode", code_file, "--model", model_folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {code_file}: byte ")
    assert "truncated" in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(code_file.parent) == ["speech.rvq"]


def test_a_flipped_byte_is_one_line_on_stderr_and_leaves_nothing(code_file, model_folder, run):
    whole = code_file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        code_file.write_bytes(damaged)
        result = run("decode", code_file, "--model", model_folder)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: {code_file}: byte ")
        assert result.stderr.count("\n") == 1
        assert os.listdir(code_file.parent) == ["speech.rvq"]


def test_codes_of_another_model_are_an_error_that_names_both(code_file, model_folder, other_model_folder, run):
    made, loaded = (Codec.from_pretrained(folder).fingerprint() for folder in (model_folder, other_model_folder))
    message = f"{code_file}: model must be the one that encoded the file, tiny_1 ({made}); got tiny_2 ({loaded})"
    assert fails(run("decode", code_file, "--model", other_model_folder), message)
    assert os.listdir(code_file.parent) == ["speech.rvq"]


def test_codes_that_the_model_does_not_have_are_an_error(code_file, model_folder, run):
    """Intact files, but not such as the model makes."""
    stream = read_stream(code_file.read_bytes())
    beyond = np.full_like(stream.codes, 64)
    more = np.zeros((1, 11, stream.header.num_frames), dtype=np.int64)
    for odd in (
        Stream(replace(stream.header, bits=7), beyond),
        Stream(replace(stream.header, num_quantizers=11), more),
    ):
        code_file.write_bytes(write_stream(odd))
        result = run("decode", code_file, "--model", model_folder)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {code_file}: ")
        assert result.stderr.count("\n") == 1
        assert os.listdir(code_file.parent) == ["speech.rvq"]


@pytest.mark.parametrize("length", [1, 8_321, 2**60])
def test_a_length_that_the_header_only_claims_takes_no_memory(code_file, model_folder, length):
    stream = read_stream(code_file.read_bytes())
    odd = Stream(replace(stream.header, length=length), stream.codes)
    with pytest.raises(ValueError, match=f"{length} samples must be {-(-length // 320)} frames; got 25"):
        decode_stream(odd, Codec.from_pretrained(model_folder))


def test_nothing_imports_torchaudio(tmp_path, clips, model_folder, start_python):
    process = start_python("-c", ENCODE_AND_DECODE, clips[0], tmp_path, model_folder)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert sorted(os.listdir(tmp_path)) == ["a.rvq", "a.wav"]
