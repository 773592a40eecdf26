import pytest
import typer

from codec.cli.errors import CommandError, one_line_errors


@pytest.mark.parametrize("error", [CommandError("it is\nnot there"), OSError("it is\nnot there")])
def test_an_expected_error_is_one_line_on_stderr(capsys, error):
    with pytest.raises(typer.Exit) as info, one_line_errors():
        raise error
    assert info.value.exit_code == 1
    assert capsys.readouterr() == ("", "error: it is not there\n")


def test_further_kinds_can_be_expected(capsys):
    with pytest.raises(typer.Exit), one_line_errors(KeyError, ValueError):
        raise ValueError("no number")
    assert capsys.readouterr().err == "error: no number\n"


def test_a_bug_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError), one_line_errors(ValueError):
        _ = 1 / 0
    assert capsys.readouterr().err == ""
