"""Files of codes, as the commands read them."""

from pathlib import Path
from typing import TYPE_CHECKING

from codec.cli.errors import CommandError

if TYPE_CHECKING:
    from codec.bitstream import Stream


def read_code_file(path: Path) -> "Stream":
    """Read and check a whole file of codes.

    Raises:
        CommandError: It cannot be read, or a byte of it is wrong.
    """
    from codec.bitstream import BitstreamError, read_stream

    try:
        return read_stream(path.read_bytes())
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    except BitstreamError as error:
        raise CommandError(f"{path}: {error}") from error
