"""Which of several processes of a launcher this is."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """A process among those that work together, as torch's and Accelerate's launchers say it in the environment.

    They need not talk to each other: each knows its share of the work.

    Attributes:
        index: Of this process, among those of all machines.
        world_size: How many there are.
        local_index: Of this process, among those of this machine; None without a launcher.
        local_size: How many there are on this machine.
    """

    index: int = 0
    world_size: int = 1
    local_index: int | None = None
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Rank":
        """Read what the launcher set; without one, the only process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not all(name in environment for name in names):
            return cls()
        return cls(*(int(environment[name]) for name in names))

    def device(self) -> str:
        """Where this process works unless it is told otherwise: under a launcher, on a GPU of its own."""
        from codec.train.launch import is_for_cpu

        if self.local_index is None or is_for_cpu(os.environ):
            return "cpu"
        return f"cuda:{self.local_index}"

    def jobs(self, device: str) -> int:
        """How many processes it starts unless it is told otherwise: on the CPU, for its share of the cores."""
        return max(1, _count_cores() // self.local_size) if device == "cpu" else 1

    def share(self, indices: Sequence[int]) -> list[int]:
        """What of numbered work is this process's, whatever others have already done of theirs."""
        return [index for index in indices if index % self.world_size == self.index]


def _count_cores() -> int:
    # Of a machine that is shared, fewer than there are.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
