"""The Accelerator of a run."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import KwargsHandler

from codec.train.launch import is_for_cpu
from codec.train.memory import keep_freed_memory
from codec.train.precision import choose_precision


def start_accelerator(
    mixed_precision: str, trackers: Sequence[str], folder: Path, handlers: Sequence[KwargsHandler] = ()
) -> Accelerator:
    """Make the accelerator of a run.

    Args:
        mixed_precision: As in a recipe; see `choose_precision`.
        trackers: Names that Accelerate knows.
        folder: Of the run, where TensorBoard writes.
        handlers: Of Accelerate, for what differs from its defaults.
    """
    on_cpu = is_for_cpu(os.environ)
    if on_cpu:
        keep_freed_memory()
    device = (None if on_cpu else torch.accelerator.current_accelerator()) or torch.device("cpu")
    return Accelerator(
        # Processes on a machine without GPUs find each other only if they are told that it has none.
        cpu=on_cpu,
        mixed_precision=choose_precision(mixed_precision, device),
        log_with=list(trackers) or None,
        project_dir=folder,
        kwargs_handlers=list(handlers),
    )
