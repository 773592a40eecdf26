"""Files that are whole or not there, whoever writes them and whenever it is killed."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that comes to be as its block ends; an error leaves what was there.

    Several processes may write the same bytes at once: until then each writes under a name of its own.

    Yields:
        Where to write.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield partial
        _move(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave it as it was."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def clear_partial(folder: Path) -> None:
    """Remove what killed processes left."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(partial: Path, path: Path) -> None:
    try:
        with partial.open("rb") as file:
            # What is written next may say that this file is whole: it must not outlive it when the machine fails.
            os.fsync(file.fileno())
        partial.replace(path)
    except FileNotFoundError:
        # Cleared away by another process, which is done with the same bytes.
        if not path.exists():
            raise
