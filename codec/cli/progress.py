"""Bars on a terminal: for many files, and for the steps of one long task."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from codec.cli.files import FileTask

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A file, seconds of its audio that were done since the last call, and seconds of the whole, if that is known. With no
# seconds, of no known whole, the file is done.
Advance = Callable[[FileTask, float, float | None], None]
# What is being done, and the share of it that is done; None: not known.
Report = Callable[[str, float | None], None]


@contextmanager
def show_progress(tasks: Sequence[FileTask], wanted: bool) -> Iterator[Advance]:
    """Show a bar on stderr, if that is a terminal.

    Args:
        tasks: All that will be done.
        wanted: Whether to show anything.

    Yields:
        What is to be told of progress.
    """
    with _bars(wanted and bool(tasks), after="{task.fields[speed]}") as progress:
        yield (lambda task, seconds, whole: None) if progress is None else _Bar(progress, tasks).advance


@contextmanager
def show_steps(wanted: bool) -> Iterator[Report]:
    """Show what is being done, with a bar for each step, on stderr if that is a terminal.

    Args:
        wanted: Whether to show anything.

    Yields:
        What is to be told of progress.
    """
    with _bars(wanted, before="{task.description}") as progress:
        bars: dict[str, TaskID] = {}

        def report(step: str, share: float | None) -> None:
            if progress is None:
                return
            if step not in bars:
                bars[step] = progress.add_task(step, total=None if share is None else 1.0)
            progress.update(bars[step], completed=share)

        yield report


@contextmanager
def _bars(wanted: bool, *, before: str = "", after: str = "") -> "Iterator[Progress | None]":
    """Bars on stderr, with texts before and after each; None if they are not wanted, or there is no terminal."""
    if not (wanted and sys.stderr is not None and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    first, last = ([TextColumn(text)] if text else [] for text in (before, after))
    columns = [*first, BarColumn(), TaskProgressColumn(), *last, TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress


class _Bar:
    """One bar for all files. It counts their bytes, since how long they play is not known before they are opened."""

    def __init__(self, progress: "Progress", tasks: Sequence[FileTask]):
        sizes = {task: _size(task) for task in tasks}
        self._progress = progress
        self._left = {task: size or 0.0 for task, size in sizes.items()}
        self._sizes = sizes
        self._seconds = 0.0
        self._started = time.monotonic()
        total = None if None in sizes.values() else sum(self._left.values())
        self._bar = progress.add_task("", total=total, speed="")

    def advance(self, task: FileTask, seconds: float, whole: float | None) -> None:
        self._seconds += seconds
        left = self._left[task]
        if whole:
            done = min(left, (self._sizes[task] or 0) * seconds / whole)
        else:
            done = 0.0 if seconds else left
        self._left[task] -= done
        speed = self._seconds / (time.monotonic() - self._started)
        self._progress.update(self._bar, advance=done, speed=f"{speed:.1f} times real time")


def _size(task: FileTask) -> int | None:
    """Bytes of the source; None of a pipe, which has as many as come."""
    if task.source is None or not task.source.is_file():
        return None
    return task.source.stat().st_size
