"""The model that a command works with."""

from typing import TYPE_CHECKING

from codec.cli.errors import CommandError

if TYPE_CHECKING:
    import torch

    from codec import Codec


def load_model(name_or_folder: str, device: str = "cpu") -> "Codec":
    """Load a codec in eval mode.

    Args:
        name_or_folder: As in `Codec.from_pretrained`.
        device: Where it shall run.

    Raises:
        CommandError: There is no such model, it cannot be loaded, or the device is not available.
    """
    from codec import Codec

    where = find_device(device)
    try:
        return Codec.from_pretrained(name_or_folder).to(where)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error


def find_device(name: str) -> "torch.device":
    """The device of that name.

    Args:
        name: cpu, cuda, cuda:N or mps.

    Raises:
        CommandError: There is none, or not on this machine.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise CommandError(f"device must be cpu, cuda, cuda:N or mps; got {name!r}")
    there = _count_devices(device.type)
    if (device.index or 0) >= there:
        raise CommandError(f"device must be one of this machine, which has {there} of {device.type}; got {name!r}")
    return device


def _count_devices(kind: str) -> int:
    import torch

    if kind == "cuda":
        return torch.cuda.device_count()
    return 1 if kind == "cpu" or torch.backends.mps.is_available() else 0
