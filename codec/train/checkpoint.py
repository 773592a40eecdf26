"""Checkpoints of a run: one file each, whole or not there, opened without running code."""

import os
import pickle
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.distributed import gather_objects

_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int, best: int | None = None) -> None:
    """Write a checkpoint, and remove older ones; for one process alone.

    Args:
        folder: Of the run's checkpoints; made if need be.
        step: Steps taken.
        state: Tensors, numbers, strings, and dicts, lists and tuples of them.
        keep: How many of the last stay, this one among them.
        best: The step of one that stays besides.

    Raises:
        OSError: It cannot be written, as on a full disk; the checkpoints before it are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(".*.partial"):  # of a run that was killed while it wrote
        partial.unlink()
    path = folder / f"step-{step:08d}.pt"
    partial = folder / f".{path.name}.partial"
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            # Else a machine that loses power could keep the name and lose the content.
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(folder)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        reason = _system_error(error)
        if reason is None:
            raise
        raise OSError(f"{path} cannot be written; {reason.strerror}") from error
    for old in list_checkpoints(folder)[:-keep]:
        if step_of(old) != best:
            old.unlink()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        ValueError: It is damaged, or holds what a checkpoint does not.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Whose message advises to open the file all the same, and run what is in it.
        raise ValueError(f"{path} must be a checkpoint of a run; it holds other things") from error
    except (RuntimeError, EOFError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path} must be a checkpoint of a run; {' '.join(str(error).split())}") from error
    return state


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, None where there is none; all ranks must ask.

    Raises:
        ValueError: Not all ranks find the same.
    """
    checkpoints = list_checkpoints(folder)
    found = gather_objects([path.name for path in checkpoints[-1:]])
    if any(names != found[0] for names in found):
        raise ValueError(f"{folder.parent} must be on a disk that all machines share; they find {found}")
    return checkpoints[-1] if checkpoints else None


def step_of(checkpoint: Path) -> int:
    """Steps that had been taken."""
    found = _NAME.fullmatch(checkpoint.name)
    assert found is not None
    return int(found[1])


def random_states() -> dict[str, Any]:
    """Of all generators that this process shares: Python's, numpy's, torch's on CPU and GPUs."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set all generators as they were."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """Settings that differ between two recipes as nested tables, as lines such as "run.steps: 6, now 8"."""
    lines: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        first, second = before.get(key), now.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            lines += differences(first, second, f"{where}{key}.")
        elif _plain(first) != _plain(second):
            lines.append(f"{where}{key}: {first}, now {second}")
    return lines


def _system_error(error: BaseException | None) -> OSError | None:
    """What the system said: torch turns a write that failed into an error that does not tell."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _sync(folder: Path) -> None:
    """Make the renaming of a file last, where the system lets folders be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
