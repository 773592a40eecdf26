import re
from pathlib import Path

import pytest
import typer

from codec.cli.errors import CommandError
from codec.cli.files import FileTask, plan_tasks


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """a.wav, b.FLAC and notes.txt, deep/c.wav and deep/a.wav, other/a.ogg, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.wav", "in/b.FLAC", "in/notes.txt", "in/deep/c.wav", "in/deep/a.wav", "other/a.ogg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty").mkdir()


def plan(*inputs, output=None, recursive=False):
    tasks = plan_tasks(inputs, output, suffixes={".wav", ".flac", ".ogg"}, new_suffix=".rvq", recursive=recursive)
    return [(str(task.source), str(task.output)) for task in tasks]


def test_one_file_is_written_to_the_output():
    assert plan("in/a.wav", output="x.y") == [("in/a.wav", "x.y")]
    assert plan("missing.wav", output="x.y") == [("missing.wav", "x.y")]


@pytest.mark.parametrize("output", ["other", "new/"])
def test_one_file_is_written_into_the_output_if_that_is_a_folder(output):
    assert plan("in/a.wav", output=output) == [("in/a.wav", f"{Path(output)}/a.rvq")]


def test_without_output_each_is_beside_its_input():
    assert plan("in/a.wav", "other") == [("in/a.wav", "in/a.rvq"), ("other/a.ogg", "other/a.rvq")]


def test_the_output_of_several_is_a_folder():
    assert plan("in/a.wav", "in/deep/c.wav", output="out") == [
        ("in/a.wav", "out/a.rvq"),
        ("in/deep/c.wav", "out/c.rvq"),
    ]


def test_a_folder_stands_for_the_files_directly_in_it():
    assert plan("in", output="out") == [("in/a.wav", "out/a.rvq"), ("in/b.FLAC", "out/b.rvq")]


def test_the_tree_below_a_folder_is_mirrored():
    assert plan("in", output="out", recursive=True) == [
        ("in/a.wav", "out/a.rvq"),
        ("in/b.FLAC", "out/b.rvq"),
        ("in/deep/a.wav", "out/deep/a.rvq"),
        ("in/deep/c.wav", "out/deep/c.rvq"),
    ]
    assert plan(".", recursive=True)[0] == ("in/a.wav", "in/a.rvq")


def test_only_outputs_of_several_make_folders():
    def makes_folder(*inputs, output):
        tasks = plan_tasks(inputs, output, suffixes={".wav"}, new_suffix=".rvq", recursive=False)
        return {task.make_folder for task in tasks}

    assert makes_folder("in/a.wav", output="new/a.rvq") == {False}
    assert makes_folder("in/a.wav", output=None) == {False}
    assert makes_folder("in", output="new") == {True}


def test_a_file_that_is_named_twice_is_taken_once():
    assert plan("in/a.wav", "./in/a.wav", "in") == plan("in")
    assert plan("in/a.wav", "in/deep/../a.wav", str(Path("in/a.wav").resolve())) == [("in/a.wav", "in/a.rvq")]
    assert plan("in/deep/c.wav", "in", recursive=True) == [
        ("in/deep/c.wav", "in/deep/c.rvq"),
        *[pair for pair in plan("in", recursive=True) if pair[0] != "in/deep/c.wav"],
    ]


def test_links_to_files_and_folders_are_not_mistaken_for_others():
    Path("in/link.wav").symlink_to("a.wav")
    assert len(plan("in/a.wav", "in/link.wav")) == 2
    # The folder above the one that the link leads to: not "in", as the letters of the path say.
    Path("in/elsewhere").symlink_to(Path("other").resolve())
    Path("a.wav").touch()
    assert plan("in/a.wav", "in/elsewhere/../a.wav") == [
        ("in/a.wav", "in/a.rvq"),
        ("in/elsewhere/../a.wav", "in/elsewhere/../a.rvq"),
    ]


def test_empty_names_do_not_stand_for_the_current_folder():
    with pytest.raises(typer.BadParameter, match=r"^input must have a name; got an empty one$"):
        plan("in/a.wav", "")
    with pytest.raises(typer.BadParameter, match=r"^must have a name; got an empty one$"):
        plan("in/a.wav", output="")


def test_closed_standard_streams_are_refused(monkeypatch):
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{name}", None)
    with pytest.raises(CommandError, match=r"^standard input must be a file or a pipe; it is closed$"):
        plan("-", output="x.rvq")
    with pytest.raises(CommandError, match=r"^standard output must be a file or a pipe; it is closed$"):
        plan("in/a.wav", output="-")


@pytest.mark.parametrize(
    ("inputs", "output", "named"),
    [
        (["in/a.wav", "other/a.ogg"], "out", "in/a.wav and other/a.ogg would both be written to out/a.rvq"),
        (["in", "other"], "out", "in/a.wav and other/a.ogg would both be written to out/a.rvq"),
        (["x.wav", "x.flac"], None, "x.wav and x.flac would both be written to x.rvq"),
    ],
)
def test_two_inputs_with_the_same_output_are_refused(inputs, output, named):
    with pytest.raises(typer.BadParameter, match=f"^{re.escape(named)}$"):
        plan(*inputs, output=output)


def test_a_folder_without_audio_is_an_error():
    with pytest.raises(CommandError, match=r"^empty: holds no files of \.flac, \.ogg, \.wav; --recursive looks into"):
        plan("empty")
    with pytest.raises(CommandError, match=r"^empty: holds no files of \.flac, \.ogg, \.wav$"):
        plan("empty", recursive=True)


def test_a_dash_is_a_standard_stream(monkeypatch):
    for name in ("sys.stdin", "sys.stdout"):
        monkeypatch.setattr(f"{name}.isatty", lambda: False, raising=False)
    assert plan("-", output="-") == [("None", "None")]
    assert plan("-", output="x.rvq") == [("None", "x.rvq")]
    assert plan("in/a.wav", output="-") == [("in/a.wav", "None")]
    assert FileTask(None, None).name == "standard input"


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["-"], None, "standard input has no name to make one from; pass --output FILE, or '--output -'"),
        (["-", "in/a.wav"], "out", "'-' must be the only input, and so must the input of '--output -'"),
        (["in/a.wav", "in/b.FLAC"], "-", "'-' must be the only input, and so must the input of '--output -'"),
        (["in"], "-", "standard output takes one file; got a folder"),
        (["-"], "x.rvq", "standard input must be a file or a pipe; got a terminal"),
        (["in/a.wav"], "-", "standard output must be a file or a pipe; got a terminal"),
    ],
)
def test_standard_streams_that_make_no_sense_are_refused(monkeypatch, inputs, output, message):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(typer.BadParameter, match=f"^{re.escape(message)}$"):
        plan(*inputs, output=output)
