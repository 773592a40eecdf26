"""What goes wrong at the shell: one line and an exit status, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer


class CommandError(Exception):
    """Something that the user of a command can put right; the message says what."""


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn expected errors into one line on stderr and exit status 1.

    Args:
        kinds: Errors with a message for the user, beside `CommandError` and `OSError`. Any other is a bug, and keeps
            its traceback.
    """
    expected: tuple[type[Exception], ...] = (CommandError, OSError, *kinds)
    try:
        yield
    except expected as error:
        typer.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
        raise typer.Exit(1) from error
