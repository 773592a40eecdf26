import os
import shutil
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from codec.cli.main import app

ROOT = Path(__file__).parents[2]

HELP = """
import sys
from codec.cli.main import app
app(["--help"], standalone_mode=False)
slow = {"torch", "torchaudio", "numpy", "soundfile", "soxr", "einops"} & set(sys.modules)
sys.exit(f"imported {slow}" if slow else 0)
"""


def app_commands():
    return get_command(app).commands


def test_help_lists_the_subcommands(run_process):
    result = run_process("--help")
    assert result.exit_code == 0
    assert set(app_commands()) <= set(result.stdout.split())
    assert "Exit status" in result.stdout


def test_help_waits_for_no_slow_import(start_python):
    process = start_python("-c", HELP)
    _, stderr = process.communicate(timeout=300)
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
    "arguments",
    [["encode"], ["decode"], ["info"], ["transcode"], ["encode", "a", "--bitrate", "x"], ["-q", "-v", "info", "a"]],
)
def test_wrong_usage_is_an_error_without_a_traceback(run_process, arguments):
    result = run_process(*arguments)
    assert result.exit_code == 2
    assert "Usage: codec" in result.stderr
    assert "Traceback" not in result.stderr


def fail():
    raise ZeroDivisionError("by zero")


@pytest.fixture
def with_a_bug(monkeypatch):
    """The program with a command that fails."""
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command()(fail)


@pytest.mark.usefixtures("with_a_bug")
def test_a_bug_is_one_line_and_a_status_of_its_own(run):
    result = run("fail")
    assert (result.exit_code, result.stdout) == (70, "")
    assert result.stderr == "internal error: ZeroDivisionError: by zero; --debug shows the traceback\n"


@pytest.mark.usefixtures("with_a_bug")
def test_debug_shows_the_traceback(run):
    result = run("--debug", "fail")
    assert result.exit_code == 70
    assert result.stderr.startswith("Traceback")
    assert 'raise ZeroDivisionError("by zero")' in result.stderr


def test_debug_shows_the_traceback_of_an_expected_error_too(speech_file, model_folder, run):
    speech_file.write_text("This is no audio.")
    assert "Traceback" not in run("encode", speech_file, "--model", model_folder).stderr
    assert "Traceback" in run("--debug", "encode", speech_file, "--model", model_folder).stderr
    assert "Traceback" in run("--debug", "info", "no_such_model").stderr


def test_quiet_leaves_out_the_summary_and_verbose_names_each_file(speech_file, model_folder, run):
    shutil.copy(speech_file, speech_file.with_name("other.wav"))
    command = ["encode", speech_file.parent, "--model", model_folder, "--overwrite"]
    assert run("--quiet", *command).output == ""
    assert run("--log-level", "warning", *command).output == ""
    assert run(*command).stderr.startswith("2 files: 2 done")
    *lines, summary = run("--verbose", *command).stderr.splitlines()
    assert lines == [
        f"{path}: 0.50 s of audio to {path.with_suffix('.rvq')}" for path in sorted(speech_file.parent.glob("*.wav"))
    ]
    assert summary.startswith("2 files: 2 done")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(start_python, shell):
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    show = start_python("-m", "codec.cli.main", "--show-completion", shell, env=environment)
    stdout, _ = show.communicate(timeout=300)
    assert show.returncode == 0
    assert "_CODEC_COMPLETE" in stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("codec en", {"encode"}),
        ("codec encode --sk", {"--skip-existing"}),
        ("codec data ", {"librispeech", "manifest"}),
    ],
)
def test_commands_and_options_are_completed(start_python, words, expected):
    environment = {
        **os.environ,
        "_CODEC_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    process = start_python("-m", "codec.cli.main", env=environment)
    stdout, stderr = process.communicate(timeout=300)
    assert set(stdout.split()) == expected, stderr


def test_the_page_about_commands_has_each_command_and_each_option_of_those_about_files_and_tokens():
    page = (ROOT / "docs" / "commands.md").read_text()
    assert [name for name in app_commands() if f"codec {name}" not in page] == []
    options = {
        option
        for name in ("encode", "decode", "info", "tokenize", "generate")
        for parameter in app_commands()[name].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options |= {option for parameter in get_command(app).params for option in parameter.opts}
    assert (
        sorted(option for option in options if option.startswith("--") and option != "--help" and option not in page)
        == []
    )
