"""The model that a command works with."""

from typing import TYPE_CHECKING

from codec.cli.errors import CommandError

if TYPE_CHECKING:
    from codec import Codec


def load_model(name_or_folder: str) -> "Codec":
    """Load a codec in eval mode.

    Raises:
        CommandError: There is no such model, or it cannot be loaded.
    """
    from codec import Codec

    try:
        return Codec.from_pretrained(name_or_folder)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
