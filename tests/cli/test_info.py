import os

import pytest

from codec.bitstream import Header
from codec.cli.info import describe

INFO = """
import sys
from codec.cli.main import app
app(["info", sys.argv[1]], standalone_mode=False)
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


def test_describes_everything_in_the_header():
    header = Header(
        model="speech_16khz",
        fingerprint="0123456789abcdef",
        sample_rate=44_100,
        channels=2,
        length=441_000,
        num_quantizers=6,
        bits=10,
        num_frames=500,
    )
    assert describe(header, size=8_000) == {
        "model": "speech_16khz",
        "fingerprint": "0123456789abcdef",
        "sample rate": "44100 Hz",
        "channels": "2",
        "length": "441000 samples",
        "duration": "10.000 s",
        "stages": "6",
        "bits per code": "10",
        "frames": "500",
        "frames per chunk": "500",
        "size": "8000 bytes",
        "bitrate on disk": "6400 bit/s",
        "compression": "220.5 times smaller than 16-bit PCM",
    }


def test_the_real_command_shows_it(code_file, run_process):
    result = run_process("info", code_file)
    assert (result.exit_code, result.stderr) == (0, "")
    for shown in ("tiny_1", "16000 Hz", "8000 samples", "0.500 s", f"{code_file.stat().st_size} bytes"):
        assert shown in result.stdout


def test_needs_neither_model_nor_torch(code_file, start_python):
    process = start_python("-c", INFO, code_file)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr


@pytest.mark.parametrize("position", [0, 4, 20, 60, 100, -1])
def test_damage_is_one_line_on_stderr(code_file, run, position):
    damaged = bytearray(code_file.read_bytes())
    damaged[position] ^= 1
    code_file.write_bytes(damaged)
    result = run("info", code_file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {code_file}: byte ")
    assert result.stderr.count("\n") == 1


def test_a_missing_file_is_one_line_on_stderr(tmp_path, run):
    result = run("info", tmp_path / "missing.rvq")
    assert (result.exit_code, result.stderr) == (1, f"error: {tmp_path / 'missing.rvq'}: No such file or directory\n")
    assert os.listdir(tmp_path) == []
