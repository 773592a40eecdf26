import signal
import subprocess
import sys

import pytest
import typer

from codec.cli.errors import CommandError, in_one_line, one_line_errors, shell_errors, show_traceback
from codec.cli.interrupt import Interrupted


@pytest.mark.parametrize("error", [CommandError("it is\nnot there"), OSError("it is\nnot there")])
def test_an_expected_error_is_one_line_on_stderr(capsys, error):
    with pytest.raises(typer.Exit) as info, one_line_errors():
        raise error
    assert info.value.exit_code == 1
    assert capsys.readouterr() == ("", "error: it is not there\n")
    assert in_one_line(ValueError("a\n\x1b[31mb.wav")) == "a ?[31mb.wav"


def test_further_kinds_can_be_expected(capsys):
    with pytest.raises(typer.Exit), one_line_errors(KeyError, ValueError):
        raise ValueError("no number")
    assert capsys.readouterr().err == "error: no number\n"


@pytest.mark.parametrize("error", [ZeroDivisionError, BrokenPipeError, KeyboardInterrupt])
def test_what_is_not_expected_goes_on(capsys, error):
    with pytest.raises(error), one_line_errors(ValueError):
        raise error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (CommandError("not there"), 1, "error: not there\n"),
        (ZeroDivisionError("by zero"), 70, "internal error: ZeroDivisionError: by zero; --debug shows the traceback\n"),
        (Interrupted(signal.SIGINT), 130, "interrupted\n"),
        (Interrupted(signal.SIGTERM), 143, "terminated\n"),
        (Interrupted(signal.SIGHUP), 129, "hung up\n"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_whatever_ends_a_command_is_a_line_and_an_exit_status(capsys, error, exit_code, line):
    with pytest.raises(typer.Exit) as info, shell_errors(tracebacks=False):
        raise error
    assert info.value.exit_code == exit_code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [CommandError("not there"), ZeroDivisionError("not there")])
def test_tracebacks_are_shown_on_demand(capsys, error):
    with pytest.raises(typer.Exit), shell_errors(tracebacks=True):
        raise error
    stderr = capsys.readouterr().err
    assert "Traceback (most recent call last)" in stderr
    assert "    raise error" in stderr


def test_a_traceback_from_elsewhere_is_shown_on_demand(capsys):
    with shell_errors(tracebacks=True):
        show_traceback("Traceback ...\n")
    show_traceback("Traceback after that\n")
    assert capsys.readouterr().err == "Traceback ...\n"


def test_wrong_usage_is_left_to_typer(capsys):
    with pytest.raises(typer.BadParameter), shell_errors(tracebacks=False):
        raise typer.BadParameter("no")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_no_bug(monkeypatch, stream):
    monkeypatch.setattr(f"sys.{stream}", None)
    with pytest.raises(typer.Exit) as info, shell_errors(tracebacks=False):
        raise CommandError("not there")
    assert info.value.exit_code == 1
    with shell_errors(tracebacks=False):
        typer.echo("done")


PRINT = """
import sys
from codec.cli.errors import shell_errors
import typer
try:
    with shell_errors(tracebacks=False):
        print("many lines\\n" * int(sys.argv[1]))
except typer.Exit as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("count", [1, 100_000])
def test_an_output_that_nobody_reads_ends_the_command_without_a_word(count):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINT, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=300) == 141
