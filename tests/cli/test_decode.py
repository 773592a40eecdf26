import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from codec import Codec
from codec.audio import parse_raw, read_audio, resample, write_audio
from codec.bitstream import Stream, read_stream, write_stream

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
def test_speech_is_encoded_and_decoded(tmp_path, speech, model_folder, run, sample_rate):
    """Two channels with different speech; even a model that never learned anything follows each one's waveform."""
    original = resample(0.9 * speech[0].reshape(2, -1), 16_000, sample_rate)
    write_audio(tmp_path / "original.wav", original, sample_rate)
    encoded = run("encode", tmp_path / "original.wav", "-o", tmp_path / "a.rvq", "--model", model_folder)
    decoded = run("decode", tmp_path / "a.rvq", "--model", model_folder)
    assert (encoded.exit_code, encoded.output) == (decoded.exit_code, decoded.output) == (0, "")

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


def test_the_real_command_fails_without_a_traceback(tmp_path, run_process):
    result = run_process("decode", tmp_path / "missing.rvq")
    assert result == (1, "", f"error: {tmp_path / 'missing.rvq'}: No such file or directory\n")


def fails(result, message):
    return (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {message}\n")


def test_bad_paths_are_one_line_on_stderr_and_leave_nothing(code_file, model_folder, run, monkeypatch):
    monkeypatch.chdir(code_file.parent)
    os.mkdir("empty")
    for arguments, message in [
        (["missing.rvq"], "missing.rvq: No such file or directory"),
        (["empty"], "empty: holds no files of .rvq; --recursive looks into the folders in it, too"),
        (["speech.rvq", "-o", "missing/a.wav"], "missing/a.wav: there is no folder missing"),
        (["speech.rvq", "-o", "speech.rvq", "--overwrite"], "speech.rvq: output must be another file than the input"),
    ]:
        assert fails(run("decode", "--model", model_folder, *arguments), message)
        assert sorted(os.listdir()) == ["empty", "speech.rvq"]


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
    for position in range(0, len(whole), 7):
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


def test_a_part_is_what_decoding_all_has_there(clips, tmp_path, model_folder, run):
    assert run("encode", clips[-1], "-o", tmp_path / "a.rvq", "--model", model_folder).exit_code == 0
    command = ["decode", tmp_path / "a.rvq", "--model", model_folder]
    assert run(*command, "-o", tmp_path / "whole.wav").exit_code == 0
    assert run(*command, "--start", 3.5, "--duration", 0.25, "-o", tmp_path / "part.wav").exit_code == 0
    whole, part = (read_audio(tmp_path / name).waveform for name in ("whole.wav", "part.wav"))
    assert part.shape == (1, 4_000)
    assert (part - whole[:, 56_000:60_000]).abs().max() < 1e-3
    assert fails(
        run(*command, "--start", 100, "-o", tmp_path / "b.wav"),
        f"{tmp_path / 'a.rvq'}: start must be before the end of the audio, at 5.900 s; got 100.0",
    )


def test_damage_is_concealed_on_demand(clips, tmp_path, model_folder, run):
    assert run("encode", clips[-1], "-o", tmp_path / "a.rvq", "--model", model_folder).exit_code == 0
    damaged = bytearray((tmp_path / "a.rvq").read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF  # in the second of three chunks, at 2 s to 4 s
    (tmp_path / "a.rvq").write_bytes(damaged)
    command = ["decode", tmp_path / "a.rvq", "--model", model_folder, "-o", tmp_path / "a.wav"]
    refused = run(*command)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert os.listdir(tmp_path) == ["a.rvq"]
    result = run(*command, "--conceal")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"warning: {tmp_path / 'a.rvq'}: concealed 2.00 s to 4.00 s: ")
    assert soundfile.info(tmp_path / "a.wav").frames == soundfile.info(clips[-1]).frames


@pytest.mark.parametrize(("raw", "length"), [("16000:1:s16", 8_000), ("48000:1:f32", 24_000), ("8000:1:u8", 4_000)])
def test_raw_samples_are_written_at_the_rate_that_is_asked_for(code_file, model_folder, run, raw, length):
    assert run("decode", code_file, "--raw", raw, "--model", model_folder).exit_code == 0
    raw_format = parse_raw(raw)
    waveform = raw_format.decode(code_file.with_suffix(".raw").read_bytes())
    assert run("decode", code_file, "--model", model_folder).exit_code == 0
    expected = resample(read_audio(code_file.with_suffix(".wav")).waveform, 16_000, raw_format.sample_rate)
    assert waveform.shape == (1, length)
    assert (waveform - expected).abs().max() < 0.02


def test_raw_samples_of_other_channels_are_refused(code_file, model_folder, run):
    result = run("decode", code_file, "--raw", "16000:2:s16", "--model", model_folder)
    message = f"{code_file}: raw format must be of 1 channels at 16000 Hz, as the audio is; got 16000:2:s16"
    assert fails(result, message)
    assert os.listdir(code_file.parent) == ["speech.rvq"]


def test_standard_input_and_output_give_what_files_give(code_file, model_folder, run, start_python):
    assert run("decode", code_file, "--model", model_folder, "-o", code_file.with_suffix(".wav")).exit_code == 0
    command = ["-m", "codec.cli.main", "decode", "-", "-o", "-", "--model", model_folder]
    process = start_python(*command, stdin=subprocess.PIPE, text=False)
    stdout, stderr = process.communicate(code_file.read_bytes(), timeout=300)
    assert (process.returncode, stderr) == (0, b"")
    assert stdout == code_file.with_suffix(".wav").read_bytes()


def test_an_output_that_nobody_reads_ends_without_a_word(clips, tmp_path, model_folder, run, start_python):
    assert run("encode", clips[-1], "-o", tmp_path / "a.rvq", "--model", model_folder).exit_code == 0
    command = ["-m", "codec.cli.main", "decode", tmp_path / "a.rvq", "-o", "-", "--model", model_folder]
    process = start_python(*command, text=False)
    assert len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=300) == 141


@pytest.mark.parametrize(
    "options", [["--duration", 0], ["--start", -1], ["--raw", "x"], ["--overwrite", "--skip-existing"]]
)
def test_wrong_usage_is_refused_before_anything_is_done(code_file, run, options):
    result = run("decode", code_file, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert os.listdir(code_file.parent) == ["speech.rvq"]


def test_nothing_imports_torchaudio(tmp_path, clips, model_folder, start_python):
    process = start_python("-c", ENCODE_AND_DECODE, clips[0], tmp_path, model_folder)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert sorted(os.listdir(tmp_path)) == ["a.rvq", "a.wav"]
