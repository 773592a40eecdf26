"""The logs of a training run, read back: a line for every window of steps, and one for every validation."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]

BITRATE_SUFFIX = " bit/s"
# What is neither a loss nor recognized by the end of its name.
GROUPS = {
    "audio_seconds_per_second": "throughput",
    "data_share": "throughput",
    "skipped_files": "throughput",
    "skipped_steps": "gradient",
}


def read_lines(path: Path) -> list[Line]:
    """Read a log: lines of JSON, each with its "step".

    A damaged line is left out: a run was killed while it wrote it, had no room on the disk, or is writing it.

    Raises:
        OSError: The file cannot be read.
    """
    lines: list[Line] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"])})
        except (ValueError, TypeError, KeyError):
            continue
    return lines


def scalar_names(lines: Iterable[Line], group: str) -> list[str]:
    """Names of the numbers of a group that occur in any of the lines, in the order of their first occurrence."""
    names = (name for line in lines for name, value in line.items() if isinstance(value, int | float))
    return [name for name in dict.fromkeys(names) if name != "step" and group_of(name) == group]


def group_of(name: str) -> str:
    """What a number of the log is about: "loss", "gradient", "learning_rate" or "throughput"."""
    for group, ending in {"gradient": "gradient_norm", "learning_rate": "learning_rate"}.items():
        if name.endswith(ending):
            return group
    return GROUPS.get(name, "loss")


def scores_by_bitrate(line: Line) -> dict[int, dict[str, float]]:
    """Scores of a validation under their bitrate in bit/s, from the lowest to the highest.

    Args:
        line: {"step": 1000, "3000 bit/s": {"pesq_wb": 2.5, ...}, ...}; anything but the bitrates is left out.
    """
    scores = {
        int(name.removesuffix(BITRATE_SUFFIX)): dict(values)
        for name, values in line.items()
        if name.endswith(BITRATE_SUFFIX)
    }
    return dict(sorted(scores.items()))
