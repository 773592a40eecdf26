"""Files that are whole or not there, whoever writes them and whenever it is killed."""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What FAT, and some network file systems, say of hard links.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that comes to be as its block ends; an error leaves what was there.

    Several processes may write the same bytes at once: until then each writes under a name of its own.

    Yields:
        Where to write.

    Raises:
        OSError: It cannot be written; with `path` as its `filename`.
    """
    with _partial_file(path, _move) as partial:
        yield partial


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave it as it was."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file line by line, or leave it as it was."""
    with whole_file(path) as partial, partial.open("wb") as file:
        file.writelines(lines)


def create_whole(path: Path, content: bytes) -> None:
    """Write a file unless it is there: of several processes that do so at once, with different content, one does."""
    with _partial_file(path, _link) as partial:
        partial.write_bytes(content)


def clear_partial(folder: Path) -> None:
    """Remove what killed processes left."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _partial_file(path: Path, put: Callable[[Path, Path], object]) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield partial
        try:
            with partial.open("rb") as file:
                # What is written next may say that this file is whole: it must not outlive it when the machine fails.
                os.fsync(file.fileno())
            put(partial, path)
        except FileNotFoundError:
            # Cleared away by another process, which is done with the same bytes.
            if not path.exists():
                raise
    except OSError as error:
        raise _named(error, path) from error
    finally:
        with suppress(OSError):  # of a disk that is read-only by now
            partial.unlink(missing_ok=True)


def _named(error: OSError, path: Path) -> OSError:
    """The same error, which says of which file: Python's does not where a disk is full, and Arrow's never."""
    return error if error.errno is None else OSError(error.errno, os.strerror(error.errno), str(path))


def _move(partial: Path, path: Path) -> None:
    partial.replace(path)


def _link(partial: Path, path: Path) -> None:
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not path.exists():  # as near as such a disk allows
            partial.replace(path)
