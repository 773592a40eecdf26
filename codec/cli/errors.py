"""What goes wrong at the shell: a line on stderr and an exit status, no traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from traceback import format_exception

import typer

from codec.cli.interrupt import Interrupted, interruptible
from codec.cli.log import printable

# Beside 0 and 2, which typer gives to wrong usage, and 128 + the number of the signal that ended the command.
FAILED = 1
BUG = 70
CLOSED_PIPE = 128 + signal.SIGPIPE

_tracebacks = ContextVar("tracebacks", default=False)


class CommandError(Exception):
    """Something that the user of a command can put right; the message says what."""


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn expected errors into one line on stderr and exit status 1.

    Args:
        kinds: Errors with a message for the user, beside `CommandError` and `OSError`. Any other is a bug, or a matter
            of `shell_errors`.
    """
    expected: tuple[type[Exception], ...] = (CommandError, OSError, *kinds)
    try:
        yield
    except BrokenPipeError:
        raise
    except expected as error:
        typer.echo(f"error: {in_one_line(error)}", err=True)
        raise typer.Exit(FAILED) from error


@contextmanager
def shell_errors(tracebacks: bool) -> Iterator[None]:
    """Turn whatever ends a command early into one line on stderr and an exit status.

    Args:
        tracebacks: Whether the traceback of an error stands above its line.
    """
    token = _tracebacks.set(tracebacks)
    try:
        with _quiet_when_nobody_reads(), interruptible(), one_line_errors():
            yield
            if sys.stdout is not None:  # closed, by `>&-`
                sys.stdout.flush()
    except typer.Exit as error:
        if error.__cause__ is not None:
            show_traceback(traceback_of(error.__cause__))
        raise
    except (typer.Abort, typer.TyperException):
        raise
    except Interrupted as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(128 + error.number) from None
    except Exception as error:
        show_traceback(traceback_of(error))
        typer.echo(bug_line(error), err=True)
        raise typer.Exit(BUG) from None
    finally:
        _tracebacks.reset(token)


def in_one_line(error: BaseException) -> str:
    """The message of an error without its line breaks, nor anything else that a terminal obeys."""
    return printable(" ".join(str(error).splitlines()))


def is_expected(error: BaseException) -> bool:
    """Whether the error is no bug."""
    return isinstance(error, CommandError | OSError)


def bug_line(error: BaseException) -> str:
    """What to say of a bug."""
    return f"internal error: {type(error).__name__}: {in_one_line(error)}; --debug shows the traceback"


def traceback_of(error: BaseException) -> str:
    """As Python prints it."""
    return "".join(format_exception(error))


def show_traceback(text: str) -> None:
    """Print a traceback, if the user wants to see them."""
    if _tracebacks.get():
        typer.echo(text, err=True, nl=False)


@contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """End without a word when the reader of the output is gone, as in `codec ... | head`."""
    try:
        yield
    except BrokenPipeError:
        # What is left in the buffer would fail again as the interpreter ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(CLOSED_PIPE) from None
