"""Options that several subcommands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from codec.audio import RawFormat

DEFAULT_MODEL = "speech_16khz"

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="File to write. Default: beside the input, with another suffix."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", help="Name of a shipped model, a folder that holds one, or OWNER/NAME on the Hugging Face hub."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if there is one already.")]


Outputs = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|FOLDER|-",
        help="Of one input a file, of several or of a folder a folder, which is made if need be; - is standard output. "
        "Default: beside each input, with another suffix.",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Take the files in folders below a folder, too.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that share the cores.")]
Device = Annotated[str, typer.Option("--device", help="Where the model runs: cpu, cuda, cuda:1, mps.")]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Pass over inputs of which there is an output already.")
]


def check_existing(overwrite: bool, skip_existing: bool) -> None:
    """Refuse two options that contradict each other.

    Raises:
        typer.BadParameter: Both are given.
    """
    if overwrite and skip_existing:
        raise typer.BadParameter("--overwrite and --skip-existing exclude each other")


def read_raw(text: str | None) -> "RawFormat | None":
    """Read what samples without a header are.

    Raises:
        typer.BadParameter: `text` is no such format.
    """
    if text is None:
        return None
    from codec.audio import parse_raw

    try:
        return parse_raw(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--raw") from None


def beside(source: Path, suffix: str) -> Path:
    """The file of the same name with another suffix; unlike `Path.with_suffix`, for any path ("." too)."""
    return source.parent / (source.stem + suffix)
