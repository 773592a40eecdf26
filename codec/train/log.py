"""What a run tells: means of losses, use of every stage's codes, speed."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from codec.distributed import sum_over_ranks, world_size
from codec.quantize import Usage


class Window:
    """Sums over the steps since the last line of the log. No collective until it is read.

    Args:
        codebook_sizes: Codes of each stage.
    """

    _losses: defaultdict[str, Tensor]
    _seconds: float
    _steps: int
    _start: float

    def __init__(self, codebook_sizes: Sequence[int]):
        self._usage = Usage(codebook_sizes)
        self._reset()

    def add(self, losses: dict[str, Tensor], codes: Tensor, seconds_of_audio: float) -> None:
        """Take in a step.

        Args:
            losses: Scalars by name.
            codes: [batch, num_quantizers, frames].
            seconds_of_audio: In this process's share of the batch.
        """
        for name, loss in losses.items():
            self._losses[name] = self._losses[name] + loss.detach()
        self._usage.add(codes)
        self._seconds += seconds_of_audio
        self._steps += 1

    def read(self) -> dict[str, float | list[float]]:
        """What happened since the last reading, on all ranks; every rank must ask.

        Returns:
            Each loss; "perplexity", "entropy", "dead_share" and "bits_per_frame", a list each with an entry for each
            stage (see `UsageReport`); "audio_seconds_per_second".

        Raises:
            RuntimeError: No step was added.
        """
        if self._steps == 0:
            raise RuntimeError("a window must hold a step before it is read; got none")
        totals = torch.stack(list(self._losses.values())).float()
        losses, seconds = sum_over_ranks(totals, totals.new_tensor(self._seconds))
        losses = losses / (self._steps * world_size())
        values: dict[str, float | list[float]] = dict(zip(self._losses, losses.tolist(), strict=True))
        values.update({name: use.squeeze(1).tolist() for name, use in self._usage.report()._asdict().items()})
        values["audio_seconds_per_second"] = seconds.item() / (time.monotonic() - self._start)
        self._reset()
        return values

    def _reset(self) -> None:
        self._losses = defaultdict(lambda: torch.zeros(()))
        self._seconds = 0.0
        self._steps = 0
        self._start = time.monotonic()


def append_line(path: Path, values: dict[str, object]) -> None:
    """Add a line of JSON to a log file."""
    with path.open("a") as file:
        file.write(json.dumps(values, default=float) + "\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Cut a log file back to a step: that of the checkpoint from which a run goes on, and will log again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:  # the run was killed while it wrote this line
        return math.inf


def summarize(values: dict[str, float | list[float]]) -> str:
    """Losses, and the range of the stages' perplexities, on one short line."""
    numbers = [f"{name} {value:.3f}" for name, value in values.items() if isinstance(value, float)]
    stages = values["perplexity"]
    assert isinstance(stages, list)
    return "  ".join([*numbers, f"perplexity {min(stages):.0f} to {max(stages):.0f}"])
