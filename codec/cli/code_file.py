"""Files of codes, as the commands read them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from codec.cli.errors import CommandError


@contextmanager
def open_code_file(path: Path | None) -> Iterator[BinaryIO]:
    """Open a file of codes to read from it in the block.

    Args:
        path: Of the file; None: standard input.

    Raises:
        CommandError: It cannot be opened, or what the block reads of it is damaged.
    """
    from codec.bitstream import BitstreamError

    name = "standard input" if path is None else str(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(0 if path is None else path, "rb", closefd=path is not None))
        except OSError as error:
            raise CommandError(f"{name}: {error.strerror}") from error
        try:
            yield file
        except BitstreamError as error:
            raise CommandError(f"{name}: {error}") from error
