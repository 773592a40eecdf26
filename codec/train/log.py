"""What a run tells: means of losses, use of every stage's codes, speed."""

import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from codec.distributed import sum_over_ranks, world_size
from codec.quantize import Usage
from codec.whole import write_whole


class Window:
    """Sums over the steps since the last line of the log. No collective until it is read.

    Args:
        codebook_sizes: Codes of each stage.
    """

    _losses: defaultdict[str, Tensor]
    _occurrences: Counter[str]
    _audio_seconds: float
    _data_seconds: float
    _steps: int
    _start: float

    def __init__(self, codebook_sizes: Sequence[int]):
        self._usage = Usage(codebook_sizes)
        self._reset()

    def add(
        self, losses: dict[str, Tensor], codes: Tensor, seconds_of_audio: float, *, data_seconds: float = 0.0
    ) -> None:
        """Take in a step.

        Args:
            losses: Scalars by name, of the same names on all ranks. Some may occur in some steps only.
            codes: [batch, num_quantizers, frames].
            seconds_of_audio: In this process's share of the batch.
            data_seconds: By the clock, that this process waited for its share.
        """
        for name, loss in losses.items():
            self._losses[name] = self._losses[name] + loss.detach()
        self._occurrences.update(losses.keys())
        self._usage.add(codes)
        self._audio_seconds += seconds_of_audio
        self._data_seconds += data_seconds
        self._steps += 1
        self._device = codes.device

    def read(self) -> dict[str, float | list[float]]:
        """What happened since the last reading, on all ranks; every rank must ask, and gets the same.

        Returns:
            Each loss, averaged over the steps in which it occurred; "perplexity", "entropy", "dead_share" and
            "bits_per_frame", a list each with an entry for each stage (see `UsageReport`); "audio_seconds_per_second";
            "data_share", of the time, that went by in waiting for data.

        Raises:
            RuntimeError: No step was added.
        """
        if self._steps == 0:
            raise RuntimeError("a window must hold a step before it is read; got none")
        means = [loss.to(self._device) / self._occurrences[name] for name, loss in self._losses.items()]
        seconds = [self._audio_seconds, self._data_seconds, time.monotonic() - self._start]
        (totals,) = sum_over_ranks(torch.stack([*means, *torch.tensor(seconds, device=self._device)]))
        *losses, audio_seconds, data_seconds, elapsed = totals.tolist()
        values: dict[str, float | list[float]] = {
            name: loss / world_size() for name, loss in zip(self._losses, losses, strict=True)
        }
        values.update({name: use.squeeze(1).tolist() for name, use in self._usage.report()._asdict().items()})
        values["audio_seconds_per_second"] = audio_seconds * world_size() / elapsed
        values["data_share"] = data_seconds / elapsed
        self._reset()
        return values

    def _reset(self) -> None:
        self._losses = defaultdict(lambda: torch.zeros(()))
        self._occurrences = Counter()
        self._audio_seconds = self._data_seconds = 0.0
        self._steps = 0
        self._start = time.monotonic()


def append_line(path: Path, values: dict[str, object]) -> None:
    """Add a line of JSON to a log file."""
    with path.open("a+b") as file:
        # What a full disk left of the line before must not spoil this one.
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(values, default=float).encode() + b"\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Cut a log file back to a step: that of the checkpoint from which a run goes on, and will log again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            write_whole(path, "".join(kept).encode())


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:  # the run was killed while it wrote this line
        return math.inf


def summarize(values: dict[str, float | list[float]]) -> str:
    """Losses, and the range of the stages' perplexities, on one short line."""
    numbers = [f"{name} {value:.3g}" for name, value in values.items() if isinstance(value, float)]
    stages = values["perplexity"]
    assert isinstance(stages, list)
    return "  ".join([*numbers, f"perplexity {min(stages):.0f} to {max(stages):.0f}"])
