import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HELP = """
import sys
from codec.cli.main import app
app(["--help"], standalone_mode=False)
slow = {"torch", "torchaudio", "numpy", "soundfile", "soxr", "einops"} & set(sys.modules)
sys.exit(f"imported {slow}" if slow else 0)
"""


def test_help_lists_the_subcommands(run_process):
    result = run_process("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in ("encode", "decode", "info"))


def test_help_waits_for_no_slow_import(start_python):
    process = start_python("-c", HELP)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr


def test_the_version_is_that_of_the_distribution(run, monkeypatch):
    distribution = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    monkeypatch.setattr("importlib.metadata.version", {distribution: "1.2.3"}.__getitem__)
    result = run("--version")
    assert (result.exit_code, result.output) == (0, "codec 1.2.3\n")


def test_the_entry_point_is_main():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["codec"] == "codec.cli.main:main"


@pytest.mark.parametrize(
    "arguments", [["encode"], ["decode"], ["info"], ["transcode"], ["encode", "a", "--bitrate", "x"]]
)
def test_wrong_usage_is_an_error_without_a_traceback(run_process, arguments):
    result = run_process(*arguments)
    assert result.exit_code == 2
    assert "Usage: codec" in result.stderr
    assert "Traceback" not in result.stderr
