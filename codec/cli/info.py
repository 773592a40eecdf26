"""`codec info`: what files of codes hold, and what models are."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from codec.cli.code_file import open_code_file
from codec.cli.errors import FAILED, CommandError, show_traceback, traceback_of
from codec.cli.log import log, printable
from codec.cli.table import align

if TYPE_CHECKING:
    from codec.cli.file_info import FileInfo
    from codec.cli.model_info import ModelInfo

Sources = Annotated[
    list[str],
    typer.Argument(metavar="FILE|MODEL", help="Files of codes; names or folders of models, as --model takes them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object a line for each, with None as null.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Only check files, every byte of them, and list all that is wrong.")
]
ModelFolder = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Of the model that made the files: for its latency, and to read entropy-coded codes. Shipped models are "
        "found by their names.",
    ),
]


def info(sources: Sources, as_json: AsJson = False, verify: Verify = False, model: ModelFolder = None) -> None:
    """Show what files of codes hold, after checking every byte of them, or what models are.

    Files need no model. What is damaged goes to stderr, and exit status 1 says so.
    """
    is_good = True
    for index, source in enumerate(sources):
        if index and not as_json and not verify:
            typer.echo()
        try:
            shown = _check(Path(source), as_json) if verify else _describe(source, model, as_json)
        except CommandError as error:
            show_traceback(traceback_of(error))
            shown = Shown("", [str(error)])
        if shown.text:
            typer.echo(shown.text)
        for problem in shown.problems:
            log.error("%s", problem)
        is_good = is_good and not shown.problems
    if not is_good:
        raise typer.Exit(FAILED)


class Shown(NamedTuple):
    """What there is to say of a file or model.

    Attributes:
        text: For stdout.
        problems: For stderr.
    """

    text: str
    problems: list[str]


def _check(path: Path, as_json: bool) -> Shown:
    from codec.bitstream import verify

    with open_code_file(path) as file:
        found = verify(file)
    counts = {"chunks": found.num_chunks, "frames": found.num_frames}
    text = json.dumps({"file": str(path), **counts, "problems": found.problems})
    if not as_json:
        counted = f"{found.num_chunks} chunks, {found.num_frames} frames, {len(found.problems)} problems"
        text = f"{printable(str(path))}: {counted}"
    return Shown(text, [f"{path}: {problem}" for problem in found.problems])


def _describe(source: str, model: Path | None, as_json: bool) -> Shown:
    described: FileInfo | ModelInfo
    problems: list[str] = []
    path = Path(source)
    # What is not there is a model, of the package or the hub, unless its suffix says that it should be a file.
    if path.is_dir() or not (path.exists() or path.suffix == ".rvq"):
        from codec.cli.model_info import read_model_info

        try:
            described = read_model_info(source)
        except CommandError as error:
            if path.is_dir():
                raise
            raise CommandError(f"{source}: neither a file nor a model that can be loaded: {error}") from error
    else:
        from codec.cli.file_info import read_file_info

        described = read_file_info(path, model)
        problems = [f"{path}: {problem}" for problem in described.problems]
    text = json.dumps(asdict(described)) if as_json else align(list(described.rows().items()), left=2)
    return Shown(text, problems)
