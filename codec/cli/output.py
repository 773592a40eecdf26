"""Output files: whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from codec.cli.errors import CommandError


class OutputExistsError(CommandError):
    """There is a file of the output's name already, and it is to be kept."""

    def __init__(self, path: Path):
        super().__init__(f"{path}: exists already; pass --overwrite to replace it")


@contextmanager
def new_file(path: Path, *, source: Path | None, overwrite: bool, make_folder: bool = False) -> Iterator[Path]:
    """Offer a temporary file beside `path`, and rename it to `path` once the block has filled it.

    When the block fails or is interrupted, nothing is left, and a file that was there stays as it was. An unusable
    `path` is refused before the block does its work. Of several processes that write the same file at the same time,
    the first to be ready has written it.

    Args:
        path: Where the file shall be.
        source: What it is made from: must be another file. None: no file.
        overwrite: Whether `path` may exist. Of a link, it is the link that is replaced, not what it leads to.
        make_folder: Whether to make the folder that `path` is in, and those above it, if need be.

    Yields:
        Path of an empty file to write into.

    Raises:
        OutputExistsError: `path` exists, or came to while the block did its work.
        CommandError: `path` is the source, is something other than a file, or cannot be made.
    """
    check_output(path, source=source, overwrite=overwrite, make_folder=make_folder)
    # A fixed, short name: the name of `path` may be as long as names can be.
    temporary = path.with_name(f".codec-{secrets.token_hex(8)}.part")
    try:
        with writing(str(path)):
            if make_folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
        yield temporary
        with writing(str(path)):
            _flush_to_disk(temporary)
            if overwrite:
                os.replace(temporary, path)
            else:
                _rename_new(temporary, path)
    finally:
        # Where nothing can be deleted (a file system that is read-only), the error to show is that of the output.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def open_output(
    path: Path | None, *, source: Path | None, overwrite: bool, make_folder: bool = False
) -> Iterator[BinaryIO]:
    """Open a new file for writing, as `new_file` does, or standard output if `path` is None.

    Raises:
        CommandError: As `new_file`; or what the block writes cannot be written: the disk is full.
        BrokenPipeError: Nobody reads standard output any more.
    """
    if path is None:
        with writing("standard output"), open(1, "wb", closefd=False) as file:
            yield file
        return
    with (
        new_file(path, source=source, overwrite=overwrite, make_folder=make_folder) as temporary,
        writing(str(path)),
        temporary.open("wb") as file,
    ):
        yield file


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Say which output it is that cannot be written.

    Args:
        name: Of the output.

    Raises:
        CommandError: The block raised OSError.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror or error}") from error


def check_output(path: Path, *, source: Path | None, overwrite: bool, make_folder: bool = False) -> None:
    """Refuse what `new_file` would refuse of these arguments, without writing anything.

    Raises:
        OutputExistsError: `path` exists.
        CommandError: `path` is the source, is something other than a file, or cannot be: its folder does not exist.
    """
    if not make_folder and not path.parent.is_dir():
        raise CommandError(f"{path}: there is no folder {path.parent}")
    if not _is_there(path):
        return
    if path.exists():  # unlike a link that leads nowhere
        if source is not None and source.exists() and path.samefile(source):
            raise CommandError(f"{path}: output must be another file than the input")
        # A folder, but also a device: renaming onto /dev/null would put a file in its place.
        if not path.is_file():
            raise CommandError(f"{path}: output must be a file; there is something else of that name")
    if not overwrite:
        raise OutputExistsError(path)


def _is_there(path: Path) -> bool:
    """Whether a file, or a link to anywhere, has that name. Unlike `os.path.lexists`, this tells of a name too long."""
    with writing(str(path)):
        try:
            path.lstat()
        except FileNotFoundError:
            return False
        return True


def _flush_to_disk(path: Path) -> None:
    # A disk may turn out to be full only now; and after a power cut the name must not stand for an empty file.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename, unless there is something of that name: a link is refused then, where renaming would replace it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise OutputExistsError(path) from None
    except OSError:
        # A file system without links (FAT, some of the network ones): another process may come in between.
        if os.path.lexists(path):
            raise OutputExistsError(path) from None
        os.rename(temporary, path)
