"""Many tasks, one after the other, in several processes or on a Ray cluster, whatever they are."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeVar

from codec.cli.errors import CommandError, bug_line, in_one_line, is_expected, traceback_of
from codec.cli.interrupt import Interrupted, interruptible

Task = TypeVar("Task")
Result = TypeVar("Result")

# How much of the task is done since the last report, and how much the whole is, if that is known; in any unit.
Report = Callable[[float, float | None], None]
Work = Callable[[Task, Report], Result]
# What takes long (loading a model) is done once a process. Functions of modules and dataclasses can be sent to one.
Setup = Callable[[], Work[Task, Result]]

SECONDS_TO_END = 10.0
LOST = "the process that worked on it was ended from outside, or ran out of memory"


@dataclass(frozen=True)
class Problem:
    """Why a task has no result.

    Attributes:
        message: In one line.
        traceback: Of the exception; empty if there was none.
        expected: Whether it is a matter of the input, not a bug.
    """

    message: str
    traceback: str = ""
    expected: bool = True


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of a task: a result or a problem.

    Attributes:
        task: As it was given.
        result: What the work returned.
        problem: Why there is none.
    """

    task: Task
    result: Result | None = None
    problem: Problem | None = None


def run_tasks(
    tasks: Sequence[Task], setup: Setup[Task, Result], jobs: int, report: Callable[[Task, float, float | None], None]
) -> Generator[Outcome[Task, Result], None, None]:
    """Do all tasks; one that fails does not stop the others.

    When the iterator is closed, or its user is interrupted, the processes end, and what they do is interrupted, too.

    Args:
        tasks: Of any kind; for several processes such that can be pickled.
        setup: Gives the function that does one task. It runs once in each process.
        jobs: Processes; one is this process.
        report: Is told of progress.

    Yields:
        Outcomes, in the order in which they come.

    Raises:
        CommandError: The setup failed.
        BrokenPipeError: Whoever reads the output is gone.
    """
    if min(jobs, len(tasks)) <= 1:
        return _run_here(tasks, setup, report)
    return _run_in_processes(tasks, setup, min(jobs, len(tasks)), report)


def run_tasks_on_ray(
    tasks: Sequence[int],
    setup: Setup[int, Result],
    address: str,
    report: Callable[[int, float, float | None], None],
    *,
    gpu: bool = False,
    jobs: int | None = None,
) -> Generator[Outcome[int, Result], None, None]:
    """Do all tasks on a Ray cluster, else as `run_tasks` does.

    Args:
        tasks: Numbers.
        setup: As there; paths must be absolute, and lie on a file system that all machines share.
        address: Of the cluster; see `codec.shards.ray.run_on_ray`, also for `gpu` and `jobs`.
        report: Is told of progress when a task is done.
        gpu: See there.
        jobs: See there.

    Yields:
        Outcomes, in the order in which they come.

    Raises:
        CommandError: The setup failed.
        ConnectionError: There is no such cluster.
        ImportError: Ray is not installed.
        ValueError: The address is malformed; or a local cluster would have no GPU.
    """
    from codec.shards.ray import run_on_ray

    with closing(run_on_ray(tasks, partial(_start_on_ray, setup), address, gpu=gpu, jobs=jobs)) as results:
        for task, result in results:
            match result:
                case Problem():
                    raise _setup_error(result)
                case None:
                    yield Outcome(task, problem=Problem(LOST))
                case outcome, amount:
                    report(task, amount, None)
                    yield outcome


def _start_on_ray(
    setup: Setup[Task, Result],
) -> Callable[[Task], tuple[Outcome[Task, Result], float] | Problem]:
    """What a worker does with a task: its outcome, and how much was reported in all; or why the setup failed."""
    try:
        work = setup()
    except Exception as error:
        problem = _problem(error)
        return lambda task: problem

    def attempt(task: Task) -> tuple[Outcome[Task, Result], float]:
        amounts: list[float] = []
        return _attempt(work, task, lambda amount, whole: amounts.append(amount)), sum(amounts)

    return attempt


def _run_here(
    tasks: Sequence[Task], setup: Setup[Task, Result], report: Callable[[Task, float, float | None], None]
) -> Generator[Outcome[Task, Result], None, None]:
    if not tasks:
        return
    work = setup()
    for task in tasks:
        yield _attempt(work, task, partial(report, task))


def _attempt(work: Work[Task, Result], task: Task, report: Report) -> Outcome[Task, Result]:
    try:
        return Outcome(task, work(task, report))
    except BrokenPipeError:
        raise  # the reader of the output is gone, or the process that takes the reports: no task can go on
    except Exception as error:
        return Outcome(task, problem=_problem(error))


def _problem(error: Exception) -> Problem:
    expected = is_expected(error)
    return Problem(in_one_line(error) if expected else bug_line(error), traceback_of(error), expected)


@dataclass(frozen=True)
class _Progress:
    amount: float
    whole: float | None


def _run_in_processes(
    tasks: Sequence[Task], setup: Setup[Task, Result], jobs: int, report: Callable[[Task, float, float | None], None]
) -> Generator[Outcome[Task, Result], None, None]:
    waiting = deque(tasks)
    busy: dict[Connection, Task] = {}
    processes: list[SpawnProcess] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                connection, process = _start(setup)
                processes.append(process)
                busy[connection] = waiting.popleft()
                _send(connection, busy[connection])
            for connection in _ready(busy):
                match _receive(connection):
                    case _Progress(amount, whole):
                        report(busy[connection], amount, whole)
                        continue
                    case Problem() as problem:
                        raise _setup_error(problem)
                    case Outcome() as outcome if waiting:
                        busy[connection] = waiting.popleft()
                        _send(connection, busy[connection])
                    case Outcome() as outcome:
                        del busy[connection]
                        connection.close()
                    case _:
                        outcome = Outcome(busy.pop(connection), problem=Problem(LOST))
                yield outcome
    finally:
        _end(processes)


def _start(setup: Setup[Task, Result]) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, setup), daemon=True)
    # Ctrl-C reaches all processes of a terminal, but it is this one that ends the others. The signal is held back from
    # them from the start, since they cannot do it themselves before Python runs. The tracker releases it as it starts.
    resource_tracker.ensure_running()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    there.close()
    return here, process


def _serve(connection: Connection, setup: Setup[Task, Result]) -> None:
    """Do the tasks that come, until none comes any more."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, Interrupted), interruptible():
        try:
            work = setup()
        except Exception as error:
            connection.send(_problem(error))
            return
        while True:
            task = connection.recv()
            connection.send(_attempt(work, task, lambda amount, whole: connection.send(_Progress(amount, whole))))


def _ready(busy: dict[Connection, Task]) -> list[Connection]:
    return [connection for connection in wait(list(busy)) if isinstance(connection, Connection)]


def _receive(connection: Connection) -> object:
    """What a process says; None if it is no more."""
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        connection.close()
        return None


def _send(connection: Connection, task: Task) -> None:
    # A process that is no more will be found out by what it does not answer.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.send(task)


def _setup_error(problem: Problem) -> Exception:
    if problem.expected:
        return CommandError(problem.message)
    error = RuntimeError(problem.message)
    error.add_note(problem.traceback)
    return error


def _end(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(SECONDS_TO_END)
        process.kill()
        process.join()
