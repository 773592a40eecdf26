"""Options that several subcommands share."""

from pathlib import Path
from typing import Annotated

import typer

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


def beside(source: Path, suffix: str) -> Path:
    """The file of the same name with another suffix; unlike `Path.with_suffix`, for any path ("." too)."""
    return source.parent / (source.stem + suffix)
