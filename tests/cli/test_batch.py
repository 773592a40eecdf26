import os
import pickle
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from codec.cli.batch import LOST, Problem, run_tasks, run_tasks_on_ray
from codec.cli.errors import CommandError


def start_squaring(folder: Path):
    """Leaves a file for each process that it ran in."""
    (folder / str(os.getpid())).touch()
    return square


def square(task, report):
    report(1.0, 2.0)
    match task:
        case "missing":
            raise CommandError("missing: it is\nnot there")
        case "bug":
            raise ZeroDivisionError("by zero")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "closed":
            raise BrokenPipeError
    return task * task


def start_waiting(folder: Path):
    return partial(wait_for_the_end, folder)


def wait_for_the_end(folder, task, report):
    if task == 0:
        return None
    try:
        (folder / f"{task}.begun").write_text(str(os.getpid()))
        for _ in range(1200):
            report(0.05, 60.0)
            time.sleep(0.05)
    finally:
        (folder / f"{task}.ended").touch()


def start_nothing(error):
    raise error


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_tasks_are_done_and_report_how_far_they_are(tmp_path, jobs):
    reports = []
    outcomes = list(
        run_tasks(range(7), partial(start_squaring, tmp_path), jobs, lambda *report: reports.append(report))
    )
    assert sorted((outcome.task, outcome.result) for outcome in outcomes) == [(n, n * n) for n in range(7)]
    assert sorted(reports) == [(n, 1.0, 2.0) for n in range(7)]
    assert len(os.listdir(tmp_path)) == jobs, "the setup runs once a process"
    assert (str(os.getpid()) in os.listdir(tmp_path)) == (jobs == 1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_fails_stops_no_other(tmp_path, jobs):
    tasks = [2, "missing", "bug", 3]
    outcomes = {
        outcome.task: outcome
        for outcome in run_tasks(tasks, partial(start_squaring, tmp_path), jobs, lambda *report: None)
    }
    assert (outcomes[2].result, outcomes[3].result) == (4, 9)
    missing, bug = outcomes["missing"].problem, outcomes["bug"].problem
    assert (missing.message, missing.expected) == ("missing: it is not there", True)
    assert bug.message == "internal error: ZeroDivisionError: by zero; --debug shows the traceback"
    assert not bug.expected
    assert bug.traceback.startswith("Traceback")
    assert 'raise ZeroDivisionError("by zero")' in bug.traceback


def test_a_process_that_dies_costs_its_task_and_no_other(tmp_path):
    tasks = [2, "killed", 3, "killed", 4]
    outcomes = list(run_tasks(tasks, partial(start_squaring, tmp_path), 2, lambda *report: None))
    assert sorted(outcome.result for outcome in outcomes if outcome.problem is None) == [4, 9, 16]
    assert [outcome.problem for outcome in outcomes if outcome.task == "killed"] == [Problem(LOST)] * 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_setup_that_fails_is_one_error(jobs):
    expected, bug = partial(start_nothing, CommandError("no model")), partial(start_nothing, ValueError("no idea"))
    with pytest.raises(CommandError, match=r"^no model$"):
        list(run_tasks(range(3), expected, jobs, lambda *report: None))
    with pytest.raises((ValueError, RuntimeError), match="no idea"):
        list(run_tasks(range(3), bug, jobs, lambda *report: None))


def test_without_tasks_nothing_is_set_up():
    assert list(run_tasks([], partial(start_nothing, ValueError("called")), 4, lambda *report: None)) == []


def test_an_output_that_nobody_reads_ends_it_all(tmp_path):
    with pytest.raises(BrokenPipeError):
        list(run_tasks(["closed", 2], partial(start_squaring, tmp_path), 1, lambda *report: None))


def test_when_it_is_closed_the_processes_clean_up_and_end(tmp_path):
    outcomes = run_tasks(range(3), partial(start_waiting, tmp_path), 2, lambda *report: None)
    assert next(outcomes).task == 0
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes = [int(path.read_text() or 0) for path in tmp_path.glob("*.begun")]
    outcomes.close()
    assert sorted(path.stem for path in tmp_path.glob("*.ended")) == ["1", "2"]
    assert not any(alive(process) for process in processes)


ORPHANS = """
import sys
from functools import partial
from pathlib import Path
from codec.cli.batch import run_tasks
from tests.cli.test_batch import start_waiting
list(run_tasks([1, 2], partial(start_waiting, Path(sys.argv[1])), 2, lambda *report: None))
"""


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path, start_python):
    process = start_python("-c", ORPHANS, tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes = [int(path.read_text() or 0) for path in tmp_path.glob("*.begun")]
    process.send_signal(signal.SIGKILL)
    while any(alive(each) for each in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sorted(path.stem for path in tmp_path.glob("*.ended")) == ["1", "2"]


def square_number(task, report):
    for _ in range(task):
        report(1.0, None)
    return square({5: "missing", 6: "bug"}.get(task, task), report)


def start_squaring_numbers():
    return square_number


@pytest.fixture
def ray_here(monkeypatch):
    """No cluster, whose workers tests/shards/test_ray.py kills: all in this process, but sent as if to others."""

    def run_here(tasks, setup, address, **options):
        work = pickle.loads(pickle.dumps(setup))()
        for task in tasks:
            yield task, None if task == 7 else pickle.loads(pickle.dumps(work(task)))

    monkeypatch.setattr("codec.shards.ray.run_on_ray", run_here)


def test_on_ray_problems_and_progress_are_told_as_of_processes(ray_here):
    reports = []
    outcomes = run_tasks_on_ray([2, 5, 6, 7], start_squaring_numbers, "auto", lambda *report: reports.append(report))
    done, missing, bug, lost = outcomes
    assert (done.task, done.result, done.problem) == (2, 4, None)
    assert (missing.problem.message, missing.problem.expected) == ("missing: it is not there", True)
    assert "ZeroDivisionError" in bug.problem.traceback
    assert lost.problem == Problem(LOST)
    assert reports == [(2, 3.0, None), (5, 6.0, None), (6, 7.0, None)]


def test_on_ray_a_setup_that_fails_ends_it_all(ray_here):
    setup = partial(start_nothing, CommandError("no such model"))
    with pytest.raises(CommandError, match="no such model"):
        list(run_tasks_on_ray([1, 2], setup, "auto", lambda *report: None))
