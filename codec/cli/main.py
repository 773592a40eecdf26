"""The `codec` command: its subcommands and its own options."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from codec.cli.data import app as data
from codec.cli.decode import decode
from codec.cli.encode import encode
from codec.cli.errors import shell_errors
from codec.cli.generate import generate
from codec.cli.info import info
from codec.cli.log import Level, messages
from codec.cli.models import models
from codec.cli.report import report
from codec.cli.roundtrip import roundtrip
from codec.cli.tokenize import tokenize
from codec.cli.train_entropy import train_entropy

# Threads that wait for work by spinning take the cores from other processes: ten commands side by side, or three jobs,
# then take several times as long. It is read when torch is imported, which only the commands do.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

EXIT_STATUS = (
    "Exit status: 0: all went well. 1: some of the input failed. 2: wrong usage. 70: a bug of this program. 130, 143, "
    "129: interrupted by Ctrl-C, SIGTERM, SIGHUP. 141: nobody reads the output any more."
)


class Commands(TyperGroup):
    """The subcommands; whatever ends one of them early becomes a line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand."""
        with messages(_level(**ctx.params)), shell_errors(tracebacks=ctx.params["debug"]):
            return super().invoke(ctx)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, epilog=EXIT_STATUS)
app.command()(encode)
app.command()(decode)
app.command()(info)
app.command()(roundtrip)
app.command()(models)
app.command()(train_entropy)
app.command()(tokenize)
app.command()(generate)
app.command()(report)
app.add_typer(data, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"codec {version('rvq-codec')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what is wrong: --log-level warning.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what becomes of each file: --log-level debug.")]
LogLevel = Annotated[Level, typer.Option("--log-level", help="What is said on stderr: this and what is more severe.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the tracebacks of errors.")]


@app.callback()
def codec(
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_level: LogLevel = Level.INFO,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Compress audio to neural codes, and turn the codes back to audio."""
    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")


def _level(quiet: bool, verbose: bool, log_level: Level, **others: object) -> Level:
    return Level.WARNING if quiet else Level.DEBUG if verbose else Level(log_level)


def main() -> None:
    """Run the command; the entry point of the package."""
    app(prog_name="codec")


if __name__ == "__main__":
    main()
