"""Output files: whole or not at all."""

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec.cli.errors import CommandError


@contextmanager
def new_file(path: Path, *, source: Path, overwrite: bool) -> Iterator[Path]:
    """Offer a temporary file beside `path`, and rename it to `path` once the block has filled it.

    When the block fails, Ctrl-C or SIGTERM interrupt it, nothing is left, and a file that was there stays as it was.
    An unusable `path` is refused before the block does its work.

    Args:
        path: Where the file shall be.
        source: What it is made from: must be another file.
        overwrite: Whether `path` may exist.

    Yields:
        Path of an empty file to write into.

    Raises:
        CommandError: `path` exists, is the source, is something other than a file, or cannot be made.
    """
    _check(path, source, overwrite)
    # A fixed, short name: the name of `path` may be as long as names can be.
    temporary = path.with_name(f".codec-{secrets.token_hex(8)}.part")
    with _exit_on_sigterm():
        try:
            _touch(temporary, path)
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _check(path: Path, source: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise CommandError(f"{path}: there is no folder {path.parent}")
    if not path.exists():
        return
    if source.exists() and path.samefile(source):
        raise CommandError(f"{path}: output must be another file than the input")
    # A folder, but also a device: renaming onto /dev/null would put a file in its place.
    if not path.is_file():
        raise CommandError(f"{path}: output must be a file; there is something else of that name")
    if not overwrite:
        raise CommandError(f"{path}: exists already; pass --overwrite to replace it")


def _touch(temporary: Path, path: Path) -> None:
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise, as Ctrl-C does, instead of ending the process where it stands."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
