"""All of it in processes of their own: Ray warns of itself, and workers that are killed are its daily bread."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from codec.shards.ray import ATTEMPTS, run_on_ray

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE = 200.0

SQUARES = """
import json, os, signal, sys, time
from contextlib import suppress
from functools import partial
from pathlib import Path
import psutil
from codec.shards.ray import run_on_ray

address, folder = sys.argv[1], Path(sys.argv[2])


def start():
    (folder / f"worker_{os.getpid()}").touch()
    return square


def square(task):
    time.sleep(0.1)
    first = not (folder / "killed").exists()
    if task == 2 and first:
        (folder / "killed").touch()
    if task == 2 and first or task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task / 0 if task == 99 else task**2


def problem_of(task, setup=start, place=address, **options):
    try:
        list(run_on_ray([task], setup, place, **options))
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__} {error}"


"""
ON_A_CLUSTER = """
signal.signal(signal.SIGTERM, print)
found = {"squares": [], "handlers": []}
for result in run_on_ray(range(7), start, address, jobs=2):
    found["squares"].append(result)
    found["twice"] = problem_of(1)
    found["handlers"].append(str(signal.getsignal(signal.SIGTERM)))
found["workers"] = len(list(folder.glob("worker_*")))
found["failed"] = problem_of(99)
print(json.dumps(found))
"""

# A cluster that is started for the work; one that is not there; and one whose user presses Ctrl-C while it works.
ON_ITS_OWN = """
def start_to_interrupt(driver):
    return partial(interrupt, driver)


def interrupt(driver, task):
    raylet = psutil.Process().parent()
    processes = [raylet, *raylet.children(recursive=True), *raylet.parent().children()]
    (folder / "processes").write_text(" ".join(str(process.pid) for process in processes))
    os.kill(driver, signal.SIGINT)
    time.sleep(1000)


signal.signal(signal.SIGINT, signal.default_int_handler)  # what started the tests may ignore it
found = {"no gpu": problem_of(1, gpu=True), "nowhere": problem_of(1, place="127.0.0.1:1")}
found["interrupted"] = problem_of(1, partial(start_to_interrupt, os.getpid()), jobs=1)
processes = []
for number in (folder / "processes").read_text().split():
    with suppress(psutil.NoSuchProcess):
        processes.append(psutil.Process(int(number)))
found["left"] = [process.pid for process in psutil.wait_procs(processes, timeout=100)[1]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """In which Ray keeps its files apart from those of others, at a path that is short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="ray")
    settings = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
    yield {**os.environ, **settings}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(environment) -> Iterator[subprocess.Popen[str]]:
    """The address of a cluster of three cores, which other processes may join."""
    options = ["--head", "--port=0", "--num-cpus=3", "--include-dashboard=false", "--block"]
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *options]
    address = Path(environment["RAY_TMPDIR"], "ray", "ray_current_cluster")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + PATIENCE
    while not address.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.kill()
    process.communicate()


def run(environment, script, address, folder) -> Any:
    """What a script that needs Ray prints, which must be all that is said."""
    command = [sys.executable, "-c", SQUARES + script, address, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(environment, cluster, tmp_path_factory) -> dict[str, object]:
    return run(environment, ON_A_CLUSTER, "auto", tmp_path_factory.mktemp("workers"))


def test_no_task_is_lost_when_workers_are_killed_but_one_that_ends_them_all(found) -> None:
    squares = [[task, None if task == 3 else task**2] for task in range(7)]
    assert sorted(found["squares"]) == squares


def test_there_are_so_many_workers_at_a_time(found) -> None:
    killed = 1 + ATTEMPTS
    assert killed + 1 <= found["workers"] <= killed + 2, "a setup for each worker"


def test_a_cluster_that_was_joined_lives_on(found, cluster) -> None:
    assert cluster.poll() is None


def test_what_goes_wrong_is_told(found) -> None:
    assert found["twice"] == "RuntimeError tasks must be given to a cluster by a process that is connected to none yet"
    assert "ZeroDivisionError" in found["failed"]


def test_signals_are_handled_as_before(found) -> None:
    assert set(found["handlers"]) == {str(print)}


@pytest.fixture(scope="module")
def found_alone(environment, tmp_path_factory) -> dict[str, object]:
    return run(environment, ON_ITS_OWN, "local", tmp_path_factory.mktemp("alone"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_local_cluster_without_a_gpu_is_refused(found_alone) -> None:
    assert found_alone["no gpu"] == "ValueError a local cluster must have a GPU; got none on this machine"


def test_without_a_cluster_there_is_an_error(found_alone) -> None:
    problem = "ConnectionError address must be that of a Ray cluster; nobody answers at 127.0.0.1:1"
    assert found_alone["nowhere"] == problem


def test_an_interrupt_ends_the_local_cluster_too(found_alone) -> None:
    assert found_alone["interrupted"] == "KeyboardInterrupt "
    assert found_alone["left"] == []


def test_no_tasks_need_no_cluster() -> None:
    assert list(run_on_ray([], dict, "nowhere")) == []


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"ray must be installed for clusters: pip install 'rvq-codec\[ray\]'"):
        list(run_on_ray([1], dict, "local"))
