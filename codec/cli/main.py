"""The `codec` command: its subcommands and its own options."""

from typing import Annotated

import typer

from codec.cli.data import app as data
from codec.cli.decode import decode
from codec.cli.encode import encode
from codec.cli.info import info
from codec.cli.report import report

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(encode)
app.command()(decode)
app.command()(info)
app.command()(report)
app.add_typer(data, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"codec {version('rvq-codec')}")
        raise typer.Exit


@app.callback()
def codec(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Compress audio to neural codes, and turn the codes back to audio."""


def main() -> None:
    """Run the command; the entry point of the package."""
    app(prog_name="codec")


if __name__ == "__main__":
    main()
