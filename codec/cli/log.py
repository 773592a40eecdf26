"""Messages on stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import typer

log = logging.getLogger("codec")


class Level(StrEnum):
    """What is said: messages of this level and those after it."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@contextmanager
def messages(level: Level) -> Iterator[None]:
    """Write the messages of the package to stderr, one line each."""
    handler = _Handler()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False
    try:
        yield
    finally:
        log.level, log.propagate = before
        log.removeHandler(handler)


def printable(text: str) -> str:
    """A text with question marks for line breaks and what a terminal obeys: the name of a file may hold them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        # Not a stream that is chosen once: a progress bar replaces sys.stderr, to write above itself.
        typer.echo(f"{prefix}{printable(record.getMessage())}", err=True)
