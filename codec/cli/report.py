"""`codec report`: a page about a training run."""

from pathlib import Path
from typing import Annotated

import typer

from codec.cli.errors import one_line_errors
from codec.cli.options import Overwrite
from codec.cli.output import new_file

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run, which may still go on.")]
Page = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="File to write. Default: report.html in RUN, replaced if there is one already."
    ),
]


def report(run: Run, output: Page = None, overwrite: Overwrite = False) -> None:
    """Draw a training run: losses, use of the codebooks, quality by bitrate, on one HTML page of its own."""
    from codec.evaluate.page import LOG, PAGE, write_page

    page = output or run / PAGE
    with (
        one_line_errors(ImportError, ValueError),
        new_file(page, source=run / LOG, overwrite=overwrite or output is None) as temporary,
    ):
        write_page(run, temporary)
    typer.echo(page)
