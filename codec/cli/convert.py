"""Many files through one model: what `codec encode` and `codec decode` share."""

import logging
import random
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import typer

from codec.cli.batch import LOST, Outcome, Problem, Setup, run_tasks
from codec.cli.errors import BUG, FAILED, CommandError, show_traceback
from codec.cli.files import FileTask
from codec.cli.interrupt import Interrupted
from codec.cli.log import log
from codec.cli.output import OutputExistsError, check_output
from codec.cli.progress import show_progress


@dataclass(frozen=True)
class Converted:
    """A file that was encoded or decoded.

    Attributes:
        seconds: Of audio.
        num_bytes: Of its codes; None if only a part of them was decoded.
        warnings: What is odd about it.
        skipped: Nothing was done, since there is an output already.
    """

    seconds: float = 0.0
    num_bytes: int | None = 0
    warnings: list[str] = field(default_factory=list)
    skipped: bool = False


SKIPPED = Converted(skipped=True)


def convert_files(
    tasks: Sequence[FileTask], setup: Setup[FileTask, Converted], *, jobs: int, overwrite: bool, skip_existing: bool
) -> None:
    """Convert files; of many, one that fails does not stop the others.

    Args:
        tasks: What to make of what.
        setup: Loads the model, once a process, and gives the function that converts a file.
        jobs: Processes.
        overwrite: Whether outputs may exist.
        skip_existing: Whether to pass over a file of which there is an output.

    Raises:
        typer.Exit: Some failed.
        CommandError: The setup failed.
        Interrupted: It was; with how far it came.
    """
    tally = _Tally(len(tasks))
    ready = []
    for task in tasks:
        outcome = _settled(task, overwrite, skip_existing)
        if outcome is None:
            ready.append(task)
        else:
            tally.add(outcome)
    if skip_existing:
        # Several commands on one folder would else do each file at the same time.
        random.shuffle(ready)
    try:
        with (
            show_progress(ready, log.isEnabledFor(logging.INFO)) as advance,
            closing(run_tasks(ready, setup, jobs, advance)) as outcomes,
        ):
            for outcome in outcomes:
                advance(outcome.task, 0.0, None)
                tally.add(outcome)
    except Interrupted as error:
        error.detail = f"{tally.done} of {len(tasks)} files done"
        raise
    tally.report()


def share_threads(jobs: int) -> None:
    """Let this process use its share of the threads that it would use alone."""
    import torch

    if jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def _settled(task: FileTask, overwrite: bool, skip_existing: bool) -> Outcome[FileTask, Converted] | None:
    """What is known before a model is loaded."""
    try:
        if task.output is not None:
            check_output(task.output, source=task.source, overwrite=overwrite, make_folder=task.make_folder)
        if task.source is not None:
            task.source.stat()
    except OutputExistsError as error:
        return Outcome(task, SKIPPED) if skip_existing else Outcome(task, problem=Problem(str(error)))
    except CommandError as error:
        return Outcome(task, problem=Problem(str(error)))
    except OSError as error:
        return Outcome(task, problem=Problem(f"{task.name}: {error.strerror}"))
    return None


class _Tally:
    """Counts what became of files.

    Args:
        num_files: How many there are.
    """

    def __init__(self, num_files: int):
        self.done = 0
        self._num_files = num_files
        self._skipped = 0
        self._seconds = 0.0
        self._num_bytes: int | None = 0
        self._failed: list[tuple[FileTask, Problem]] = []
        self._started = time.monotonic()

    def add(self, outcome: Outcome[FileTask, Converted]) -> None:
        """Count a file, and say what there is to say of it at once."""
        task, result = outcome.task, outcome.result
        if outcome.problem is not None:
            self._failed.append((task, outcome.problem))
        elif result is None or result.skipped:
            self._skipped += 1
            log.debug("%s: skipped, since there is %s", task.name, task.output)
        else:
            self._add_done(task, result)

    def report(self) -> None:
        """List what failed, and sum up what more than one file came to.

        Raises:
            typer.Exit: Some failed.
        """
        for task, problem in self._failed:
            show_traceback(problem.traceback)
            names_its_file = problem.expected and problem.message != LOST
            log.error("%s", problem.message if names_its_file else f"{task.name}: {problem.message}")
        if self._num_files > 1:
            log.info("%s", self._summary())
        if self._failed:
            raise typer.Exit(FAILED if all(problem.expected for _, problem in self._failed) else BUG)

    def _add_done(self, task: FileTask, result: Converted) -> None:
        self.done += 1
        self._seconds += result.seconds
        for warning in result.warnings:
            log.warning("%s: %s", task.name, warning)
        log.debug("%s: %.2f s of audio to %s", task.name, result.seconds, task.output or "standard output")
        if result.num_bytes is None or self._num_bytes is None:
            self._num_bytes = None
        else:
            self._num_bytes += result.num_bytes

    def _summary(self) -> str:
        counts = f"{self._num_files} files: {self.done} done, {self._skipped} skipped, {len(self._failed)} failed"
        if not self._seconds:
            return counts
        parts = [f"{self._seconds:.1f} s of audio"]
        if self._num_bytes is not None:
            parts += [f"{self._num_bytes} bytes", f"{8 * self._num_bytes / self._seconds:.0f} bit/s"]
        parts.append(f"{self._seconds / (time.monotonic() - self._started):.1f} times real time")
        return f"{counts}; {', '.join(parts)}"
