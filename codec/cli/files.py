"""Which files a command reads, and which it writes."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import typer

from codec.cli.errors import CommandError
from codec.cli.options import beside

STANDARD_STREAM = "-"


class FileTask(NamedTuple):
    """A file to make from another.

    Attributes:
        source: What is read; None: standard input.
        output: What is written; None: standard output.
        make_folder: Whether the folder of `output` is made if need be.
    """

    source: Path | None
    output: Path | None
    make_folder: bool = False

    @property
    def name(self) -> str:
        """Of the source, for messages."""
        return "standard input" if self.source is None else str(self.source)


class _Source(NamedTuple):
    """A file, and where below the folder of outputs its own output is."""

    path: Path
    place: Path


def plan_tasks(
    inputs: Sequence[str], output: str | None, *, suffixes: Collection[str], new_suffix: str, recursive: bool
) -> list[FileTask]:
    """Find the files to read, and give each its output.

    Args:
        inputs: Files; folders, which stand for the files in them; or "-" alone, for standard input.
        output: A file, if there is one input; else a folder, which keeps the tree below each folder of `inputs`; "-" is
            standard output. None: beside each input.
        suffixes: Of files that are taken from folders, in lower case.
        new_suffix: Of outputs.
        recursive: Whether files in folders below the folders are taken, too.

    Raises:
        typer.BadParameter: These arguments make no sense together: two inputs have the same output, for example. Or one
            of them is empty.
        CommandError: There is nothing in a folder, or a standard stream is closed.
    """
    # Else they would stand for the current folder.
    if "" in inputs:
        raise typer.BadParameter("input must have a name; got an empty one")
    if output == "":
        raise typer.BadParameter("must have a name; got an empty one", param_hint="--output")
    if STANDARD_STREAM in (*inputs, output):
        return [_stream_task(inputs, output)]
    sources = [source for each in inputs for source in _find(Path(each), suffixes, recursive)]
    if output is None:
        return _distinct([FileTask(source.path, beside(source.path, new_suffix)) for source in sources])
    if len(inputs) == 1 and not Path(inputs[0]).is_dir() and not Path(output).is_dir() and not output.endswith(os.sep):
        return [FileTask(sources[0].path, Path(output))]
    return _distinct(
        [FileTask(source.path, Path(output) / beside(source.place, new_suffix), make_folder=True) for source in sources]
    )


def _stream_task(inputs: Sequence[str], output: str | None) -> FileTask:
    if len(inputs) > 1:
        raise typer.BadParameter("'-' must be the only input, and so must the input of '--output -'")
    if output is None:
        raise typer.BadParameter("standard input has no name to make one from; pass --output FILE, or '--output -'")
    source = None if inputs[0] == STANDARD_STREAM else Path(inputs[0])
    if source is not None and source.is_dir():
        raise typer.BadParameter("standard output takes one file; got a folder")
    if source is None:
        _check_stream(sys.stdin, "standard input")
    if output == STANDARD_STREAM:
        _check_stream(sys.stdout, "standard output")
    return FileTask(source, None if output == STANDARD_STREAM else Path(output))


def _check_stream(stream: TextIO | None, name: str) -> None:
    if stream is None:  # as Python has it after `<&-`
        raise CommandError(f"{name} must be a file or a pipe; it is closed")
    if stream.isatty():
        raise typer.BadParameter(f"{name} must be a file or a pipe; got a terminal")


def _find(path: Path, suffixes: Collection[str], recursive: bool) -> Iterator[_Source]:
    if not path.is_dir():
        yield _Source(path, Path(path.name))
        return
    below = sorted(path.rglob("*") if recursive else path.iterdir())
    files = [each for each in below if each.suffix.lower() in suffixes and each.is_file()]
    if not files:
        remedy = "" if recursive else "; --recursive looks into the folders in it, too"
        raise CommandError(f"{path}: holds no files of {', '.join(sorted(suffixes))}{remedy}")
    yield from (_Source(each, each.relative_to(path)) for each in files)


def _distinct(tasks: list[FileTask]) -> list[FileTask]:
    """Leave out what is made from the same file as one before it, under the same name or another."""
    made_from: dict[str | None, FileTask] = {}
    for task in tasks:
        other = made_from.setdefault(_place(task.output), task)
        if _place(other.source) != _place(task.source):
            raise typer.BadParameter(f"{other.source} and {task.source} would both be written to {task.output}")
    return list(made_from.values())


def _place(path: Path | None) -> str | None:
    """Where a file is, however its path is spelled; of a link to a file, where the link is."""
    return None if path is None else os.path.join(os.path.realpath(path.parent), path.name)
