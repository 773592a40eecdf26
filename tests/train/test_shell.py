import sys
from pathlib import Path

import pytest
from rich.console import Console

from codec.train.shell import one_line, parse_arguments, progress_bar


def test_arguments_become_paths_and_overrides(monkeypatch):
    words = ["tiny.toml", "--data", "a b", "--output", "runs/x", "--set", "run.steps = 3", "--set", "name = 'y'"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    arguments = parse_arguments("Train.", data="the audio")
    assert (arguments.recipe, arguments.output, arguments.resume) == (Path("tiny.toml"), Path("runs/x"), False)
    assert arguments.set == ["run.steps = 3", "name = 'y'", "data.root = '''a b'''"]
    monkeypatch.setattr(sys, "argv", ["train.py", "tiny.toml", "--resume"])
    arguments = parse_arguments("Train.", data="the audio")
    assert (arguments.output, arguments.resume, arguments.set) == (None, True, [])


def test_help_says_what_is_trained_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit):
        parse_arguments("Train a codec.", data="the audio")
    printed = " ".join(capsys.readouterr().out.split())
    assert "Train a codec." in printed
    assert "folder that holds the audio; replaces data.root" in printed


def test_errors_of_these_kinds_end_the_program_with_one_line():
    with pytest.raises(SystemExit, match=r"^error: a long message of two lines$"), one_line(OSError, ValueError):
        raise ValueError("a long message\n  of two lines")
    with pytest.raises(KeyError), one_line(ValueError):
        raise KeyError("a bug")
    with one_line(ValueError):
        pass


def test_the_bar_counts_steps():
    console = Console(record=True, width=100)
    with progress_bar(console) as progress:
        progress.advance(progress.add_task("train", total=6, completed=2))
    assert "3/6" in console.export_text()
