"""Checkpoints of a run: written whole or not at all, the last two kept."""

import re
import shutil
from pathlib import Path

from accelerate import Accelerator

KEPT = 2
_NAME = re.compile(r"step-(\d+)")


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write the state of a run; every process must call. Older checkpoints but one are removed.

    Args:
        accelerator: Holds what is saved.
        folder: Of the run's checkpoints.
        step: Steps taken.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f"partial-{step:08d}"
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        # A folder cannot be replaced by a rename; one of this name holds the same step of the same run.
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        for old in list_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_latest_checkpoint(accelerator: Accelerator, folder: Path) -> int:
    """Restore the newest whole checkpoint.

    Returns:
        Steps taken.

    Raises:
        ValueError: There is none, or it is of another model.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise ValueError(f"{folder} must hold a checkpoint to resume from; found none")
    try:
        accelerator.load_state(str(checkpoints[-1]))
    except RuntimeError as error:
        summary = " ".join(str(error).split())
        raise ValueError(f"{checkpoints[-1]} must hold the state of the recipe's model; {summary}") from error
    return int(checkpoints[-1].name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))
