"""Crops -> the batches of a run, read ahead of it: each process gets its share of each step."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codec.train.crops import Crop, NoAudioError

# Micro-batches that each worker reads ahead, so that a slow file, or a few, do not stop a step.
PREFETCH = 8

Skipped = Iterable[tuple[str, str]]


class Batch(NamedTuple):
    """One process's share of a step.

    Attributes:
        waveforms: One a micro-batch, [batch, 1, time] each.
        skipped: Path and reason of each file that could not be read, once for each time that it was drawn.
    """

    waveforms: list[Tensor]
    skipped: list[tuple[str, str]]


def batches(
    crops: Dataset[Crop],
    *,
    first_step: int,
    steps: int,
    batch_size: int,
    micro_batches: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Read this process's share of the steps from `first_step` to the end of the run.

    Step `s` is made of crops `s * batch_size` to `(s + 1) * batch_size - 1`: first those of the first micro-batch, rank
    after rank, then those of the second, and so on. So a run sees the same stream from whichever step it is resumed,
    with any number of processes, micro-batches and workers. No global random state is read or changed.

    Args:
        crops: What to read.
        first_step: Counted from 0.
        steps: Of the whole run: those before `first_step` are left out.
        batch_size: Crops of a step, on all ranks and in all micro-batches together.
        micro_batches: Parts of a step whose gradients are accumulated.
        rank: This process.
        world_size: Processes that share each step.
        workers: Processes that read, for this one; with 0, it reads itself, when a batch is asked for. They import the
            script that calls this, so it must do so under `if __name__ == "__main__"`.
        pin_memory: Whether batches lie in page-locked memory, from which they get to a GPU faster.

    Raises:
        ValueError: `batch_size` cannot be divided evenly among ranks and micro-batches.
        NoAudioError: From the iterator: crops cannot be read.
    """
    share = share_size(batch_size, micro_batches, world_size)
    parts = range(first_step * micro_batches, steps * micro_batches)
    starts = ((part * world_size + rank) * share for part in parts)
    loader: DataLoader[Crop] = DataLoader(
        crops,
        batch_sampler=(list(range(start, start + share)) for start in starts),
        collate_fn=_join,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        # Not forked: a fork copies the locks of all threads (progress bar, trackers, torch) in whatever state they are.
        # Not of a fork server: its children would outlive a process that is killed.
        multiprocessing_context="spawn" if workers else None,
        pin_memory=pin_memory,
        # Of its own, because the loader draws a seed for its workers.
        generator=torch.Generator(),
    )
    return _group(iter(loader), micro_batches)


def share_size(batch_size: int, micro_batches: int = 1, world_size: int = 1, name: str = "batch_size") -> int:
    """Crops of one process in one micro-batch.

    Raises:
        ValueError: `batch_size` cannot be divided evenly among ranks and micro-batches.
    """
    share, rest = divmod(batch_size, micro_batches * world_size)
    if rest or share < 1:
        raise ValueError(
            f"{name} must be a multiple of {world_size} processes times {micro_batches} micro-batches; got {batch_size}"
        )
    return share


def _join(crops: list[Crop]) -> tuple[Tensor, list[tuple[str, str]]]:
    return torch.stack([crop.waveform for crop in crops]), [file for crop in crops for file in crop.skipped]


def _group(parts: Iterator[tuple[Tensor, Skipped]], count: int) -> Iterator[Batch]:
    while group := _take(parts, count):
        yield Batch([waveform for waveform, _ in group], [file for _, skipped in group for file in skipped])


def _take(parts: Iterator[tuple[Tensor, Skipped]], count: int) -> list[tuple[Tensor, Skipped]]:
    try:
        return list(islice(parts, count))
    except NoAudioError as error:
        # From a worker it comes with the worker's traceback before it.
        raise NoAudioError(str(error).strip().splitlines()[-1].rpartition("NoAudioError: ")[2]) from error


class SkipList:
    """The files that a run has skipped.

    Args:
        files: Path and reason of those that were skipped before: what `files` gave, perhaps from a checkpoint.
    """

    def __init__(self, files: Skipped = ()):
        self._reasons = dict(files)

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def files(self) -> list[tuple[str, str]]:
        """Path and first reason of each, in the order in which they were met."""
        return list(self._reasons.items())

    def add(self, skipped: Skipped) -> list[str]:
        """Take note of skipped files.

        Returns:
            A line for each file that is new, so that each is named once.
        """
        known = len(self)
        for path, reason in skipped:
            self._reasons.setdefault(path, reason)
        return [f"{path}: {reason}" for path, reason in self.files[known:]]
